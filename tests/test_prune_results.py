"""docs/prune_results.py keeps seed 0's weights, every seed's verdicts, and no trial that the table has."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest
from committed import RESULTS, committed_run
from doc_scripts import doc_script

from fairbench.results.folder import RunFolder, find_runs

ROOT = Path(__file__).parent.parent


@pytest.fixture
def pruning() -> ModuleType:
    return doc_script("prune_results")


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({}, "weights"),
        ({"seed": 0}, None),
        ({"status": "trained", "protocols": {}}, None),
        ({"protocols": {"3": {}}}, None),
        ({"protocols": {"4.custom-a1": {}}}, "weights"),
        ({"protocols": {"3": {}, "4": {}}}, None),  # an older board's runs keep theirs
        ({"spec": {"trial": {"attack": "clean"}}, "run_id": "recorded", "status": "trained"}, "folder"),
        ({"spec": {"trial": {"attack": "clean"}}, "status": "trained"}, None),
    ],
)
def test_what_is_not_kept_by_hand(pruning, change, gone):
    record = {"spec": {}, "run_id": "other", "seed": 1, "status": "complete", "protocols": {"4": {}}, **change}
    assert pruning.superfluous(record, 4, {"recorded"}) == gone


def test_committed_runs_without_weights_are_whole(pruning):
    """Every run whose weights are not committed is one that pruning takes them from, and has all its other files."""
    pruned = [(folder, record) for folder, record in find_runs(RESULTS, "digits") if not folder.best.exists()]
    assert {record["seed"] for _, record in pruned} == {1, 2, 3, 4}
    for folder, record in pruned:
        assert pruning.superfluous(record, 4, set()) == "weights"
        assert not folder.last.exists()
        assert folder.verdicts.exists()
        assert folder.history.exists()
        folder.verify()


def test_pruning_takes_the_weights_of_all_seeds_but_the_first_and_nothing_else(pruning, tmp_path, monkeypatch):
    """Two runs of version 3, whose weights are kept, pruned as if they were of the present version alone."""
    rule = pruning.superfluous
    monkeypatch.setattr(pruning, "superfluous", lambda record, *rest: rule({**record, "protocols": {"4": {}}}, *rest))
    kept: dict[int, RunFolder] = {}
    for seed in (0, 1):
        path = committed_run("trades", seed, 3).path
        kept[seed] = RunFolder(tmp_path / path.relative_to(ROOT))
        shutil.copytree(path, kept[seed].path)
    assert all(folder.best.exists() and folder.last.exists() for folder in kept.values())
    assert pruning.prune(tmp_path, "digits") == {"weights": 1, "folder": 0}
    assert [kept[seed].best.exists() for seed in (0, 1)] == [True, False]
    assert [kept[seed].last.exists() for seed in (0, 1)] == [True, False]
    for folder in kept.values():
        folder.verify()
        assert folder.verdicts.exists()
    assert pruning.prune(tmp_path, "digits") == {"weights": 0, "folder": 0}
