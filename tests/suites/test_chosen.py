"""Files of tuned settings that are not what tuning writes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from fairbench.data import load_dataset
from fairbench.errors import FairbenchError
from fairbench.run.plan import plan
from fairbench.suites.chosen import Source, Tuned, read_chosen
from fairbench.suites.suite import load_suite

ROOT = Path(__file__).parents[2]
TUNED = ROOT / "fairbench" / "suites" / "tuned"
CHOICE = {"trials": 3, "budget": "a" * 12, "score": 0.5, "score_se": 0.1, "average": 0.6, "worst": 0.4}


@pytest.fixture
def suite(make_suite, tmp_path):
    return load_suite(str(make_suite(tmp_path / "suite", methods=["sat"])))


def written(path: Path, **method: object) -> Path:
    path.write_text(yaml.safe_dump({"suite": "tiny", "version": 1, "methods": {"sat": {**CHOICE, **method}}}))
    return path


def test_what_tuning_writes_is_read(suite, tmp_path):
    path = written(tmp_path / "v1.yaml", recipe={"lr": 0.05})
    assert read_chosen(path, suite).methods["sat"].recipe == {"lr": 0.05}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n",
        "a: [1",
        "suite: tiny\nversion: 1\nsuite: tiny\n",
        "suite: tiny\nversion: 2\n",
        "suite: other\nversion: 1\n",
        "suite: ../tiny\nversion: 1\n",
        "suite: tiny\nversion: one\n",
        "suite: tiny\nversion: 1\nmethod: {}\n",
        "suite: tiny\nversion: 1\nmethods: [sat]\n",
        "suite: tiny\nversion: 1\nmethods: {sat: {trials: 0}}\n",
        "suite: tiny\nversion: 1\nmethods: {sat: {trials: 1, budget: b, score: high}}\n",
        "suite: !!python/object/apply:os.abort []\n",
    ],
)
def test_a_file_of_tuned_settings_that_is_none_is_one_line(suite, tmp_path, text):
    path = tmp_path / "v1.yaml"
    path.write_text(text)
    with pytest.raises(FairbenchError, match=f"^{path}: ") as caught:
        read_chosen(path, suite)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "method",
    [
        {"recipe": {"model": "evil:build"}},
        {"recipe": {"precision": "evil:build"}},
        {"recipe": {"attack": "pgd-5:loss=evil:loss"}},
        {"options": {"sat.loss": "evil:loss"}},
        {"options": {"evil:build.x": 1}},
    ],
)
def test_tuned_settings_name_no_code(suite, tmp_path, monkeypatch, method):
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    budget = suite.budget(load_dataset(suite.data.name).hash, CHOICE["trials"])  # settings of another are void
    path = written(tmp_path / "v1.yaml", budget=budget, **method)
    specs = []
    with suppress(FairbenchError):  # an unknown setting of the recipe; a hyper-parameter that no method has is left out
        specs = plan(suite, tuned=Tuned([Source(str(path), read_chosen(path, suite))]))
    assert "evil" not in str(specs)
    assert not Path("ran").exists()


@pytest.mark.parametrize("copy", sorted(TUNED.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_settings_that_the_plan_reads_are_those_that_tuning_wrote(copy):
    suite, _, version = copy.stem.rpartition("-v")
    assert copy.read_bytes() == (ROOT / "tuning" / suite / f"v{version}.yaml").read_bytes()
