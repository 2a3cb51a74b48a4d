from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import namedtuple
from importlib import metadata

import pytest

from fairbench import doctor, registry
from fairbench.data.sources import find_datasets
from fairbench.doctor import examine, render_doctor


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAIRBENCH_DATA", str(tmp_path / "data"))


def _pretend(monkeypatch, others="real", **versions):
    """Pretend that distributions, named with underscores, and all `others` have these versions; None means missing."""
    real = metadata.version

    def version(name):
        told = versions.get(name.replace("-", "_"), others)
        if told is None:
            raise metadata.PackageNotFoundError(name)
        return real(name) if told == "real" else told

    monkeypatch.setattr(metadata, "version", version)


def test_facts_are_plain_values_and_leave_nothing_behind(tmp_path):
    facts = examine()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["versions"]["torch"]
    assert facts["torch"]["threads"] >= 1
    assert facts["torch"]["devices"] == [] or facts["torch"]["devices"][0].startswith("cuda:0")
    assert list(tmp_path.iterdir()) == []


def test_the_text_has_every_section():
    text = render_doctor(examine())
    for word in ("versions", "machine", "datasets", "extras", "output", "plain PyTorch kernels", sys.executable):
        assert word in text
    assert "fairbench datasets get cifar10" in text


def test_the_compiler_is_named_or_missed(monkeypatch):
    monkeypatch.setenv("CC", f"{sys.executable} -I")
    assert f"  C compiler      {sys.executable} -I" in render_doctor(examine())
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC")
    assert "  C compiler      none: attacks on a CPU are slower" in render_doctor(examine())


def test_torch_is_imported_only_by_the_examination():
    code = "import sys, fairbench.doctor; assert 'torch' not in sys.modules; fairbench.doctor.examine(); import torch"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_data_sets_are_found_by_their_files(tmp_path, monkeypatch):
    assert find_datasets()["mnist"] == "missing; get it with: fairbench datasets get mnist"
    (tmp_path / "data" / "MNIST" / "raw").mkdir(parents=True)
    assert find_datasets()["mnist"] == f"found in {tmp_path / 'data'}"
    assert find_datasets()["digits"] == "needs no download"


def test_data_sets_of_plug_ins_are_not_opened(tmp_path, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text("from fairbench import register_dataset\n@register_dataset('mine')\ndef mine(root): 1 / 0\n")
    monkeypatch.setattr(registry, "_plugin_files", {path: None})
    assert find_datasets()["mine"] == f"registered by {path}, not looked for"


def test_the_other_fairbench_is_recognised(monkeypatch):
    assert not any("another project" in problem for problem in examine()["problems"])
    _pretend(monkeypatch, fairbench="1.2.3")
    facts = examine()
    (problem,) = [problem for problem in facts["problems"] if "another project" in problem]
    assert problem.startswith("the distribution fairbench 1.2.3 from PyPI")
    assert "pip uninstall fairbench" in problem
    assert problem in render_doctor(facts)


def test_a_bare_checkout_is_recognised(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    (problem,) = examine()["problems"]
    assert problem.startswith("this is a bare checkout, whose methods are not found: ")
    assert problem.endswith("-m pip install -e .")


def test_missing_extras_come_with_their_command(monkeypatch):
    _pretend(monkeypatch, others="1.0", hypothesis=None, pytest_benchmark=None)
    extra = examine()["extras"]["test"]
    assert extra["found"].startswith("missing hypothesis, pytest-benchmark; install with: ")
    assert extra["install"].endswith("-m pip install 'robust-fairbench[test]'")


def test_the_text_leaves_out_the_extras_of_developers(monkeypatch):
    _pretend(monkeypatch, others="1.0", datasets=None, hypothesis=None)
    text = render_doctor(examine())
    assert "  hf              missing datasets; install with: " in text
    assert "hypothesis" not in text


def test_the_output_folder(tmp_path, monkeypatch):
    output = examine()["output"]
    assert output["folder"] == str(tmp_path / "fairbench-out")
    assert output["state"] == f"will be made in {tmp_path}"
    (tmp_path / "fairbench-out").mkdir()
    assert examine()["output"]["state"] == "writable"
    assert output["free_gb"] > 0


def test_an_output_folder_that_takes_no_files(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    facts = examine()
    assert facts["output"]["state"] == "not writable: Permission denied"
    assert any("choose another folder with --out" in problem for problem in facts["problems"])


def test_a_full_disk(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(10, 10, 5e8))
    assert any(problem.startswith("less than 1 GB is free") for problem in examine()["problems"])


def test_a_plug_in_that_cannot_be_read(tmp_path):
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "broken.py").write_text("def (")
    assert any("broken.py: cannot be read as Python" in problem for problem in examine()["problems"])


def test_a_torch_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    facts = examine()
    assert facts["torch"]["error"].startswith("cannot be imported: ")
    assert facts["torch"]["cores"] in range(1, (os.cpu_count() or 1) + 1)
    assert any("pip install --force-reinstall torch" in problem for problem in facts["problems"])
    assert "cannot be imported" in render_doctor(facts)


def test_mps_is_named_or_missed_where_there_is_a_gpu(tmp_path, monkeypatch):
    facts = examine()
    assert "MPS" not in render_doctor(facts | {"torch": facts["torch"] | {"devices": []}})
    (tmp_path / "nvidia-cuda-mps-control").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-cuda-mps-control").chmod(0o755)
    for folder, text in (
        (tmp_path, f"{tmp_path}/nvidia-cuda-mps-control"),
        ("", "nvidia-cuda-mps-control is not inst"),
    ):
        monkeypatch.setenv("PATH", str(folder))
        facts = examine()
        seen = facts["torch"] | {"cuda": "13.0", "devices": ["cuda:0, a GPU"]}
        assert f"  MPS             {text}" in render_doctor(facts | {"torch": seen})
