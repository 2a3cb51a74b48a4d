from importlib.metadata import PathDistribution

import pytest

from fairbench import doctor


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_there_and_what_is_missing_with_the_command_that_gets_it(empty_cache):
    facts = doctor.examine()
    assert facts["data"]["digits"] == "1297 training and 500 test images, 10 classes"
    assert "fairbench datasets get cifar10" in facts["data"]["cifar10"]
    assert "can be written" in facts["output"]
    assert facts["problems"] == []
    assert not list(empty_cache.iterdir())
    text = doctor.render(facts)
    assert "nothing was verified on GPU hardware" in text
    assert f"  torch: {facts['versions']['torch']}" in text


def test_the_other_fairbench_is_recognised(empty_cache, monkeypatch):
    folder = empty_cache / "fairbench-2.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: fairbench\nVersion: 2.0\n", encoding="utf-8")
    monkeypatch.setattr(doctor, "distribution", lambda _name: PathDistribution(folder))
    (problem,) = doctor.examine()["problems"]
    assert "fairbench 2.0 from PyPI" in problem
    assert "pip uninstall fairbench" in problem
