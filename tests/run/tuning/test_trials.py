"""Trials from end to end on the tiny suite: equal for every method, never on test images, resumed after a kill."""

from __future__ import annotations

import json
import os
import signal
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_runs import run_suite
from tunings import TUNING, choices, copy_tuning, rows_of, settings, timeless

from fairbench.data import load_dataset
from fairbench.results.folder import RunFolder, find_runs
from fairbench.run import benchmark, pipeline
from fairbench.run.benchmark import prepare_plan
from fairbench.run.tuning import render_trials, tune
from fairbench.run.tuning.table import table_path
from fairbench.suites.chosen import chosen_text, user_path
from fairbench.suites.suite import load_suite
from mortal import die_at_rename


def test_every_method_gets_the_same_trials(tuned):
    by_method = {name: rows_of(tuned, name) for name in ("teacher", "sat", "absld")}
    assert {len(rows) for rows in by_method.values()} == {4}
    assert len({row.budget for row in rows_of(tuned)}) == 1
    for rows in by_method.values():
        first = [(json.loads(row.recipe), row.seed) for row in rows[:2]]
        assert first == [({"lr": 0.05}, 1000), ({"lr": 0.2}, 1000)]
        assert [row.seed for row in rows[2:]] == [1001, 1001]
        assert len({row.run_id for row in rows}) == 4


def test_trials_are_scored_on_all_images_that_are_held_out_and_not_steered_by(tuned, suite, tmp_path):
    assert {row.n for row in rows_of(tuned)} == {4 * (5 + 4)}
    tune(suite, methods=["wat"], root=copy_tuning(tuned, tmp_path), trials=None)
    assert {row.n for row in rows_of(tmp_path, "wat")} == {4 * 5}  # it steers by the method split


def test_methods_train_on_the_same_images_where_splits_are_held_out_alike(suite, make_suite, tmp_path):
    from fairbench.train.splits import divide

    dataset = load_dataset(load_suite(suite).data.name)
    (spec,) = prepare_plan(suite, methods=["sat"], root=tmp_path)
    own, steered = (divide(dataset, spec, method_split=needed) for needed in (False, True))
    assert np.array_equal(own.train, steered.train)
    assert np.array_equal(own.spare, steered.method)
    assert len(own.method) == len(steered.spare) == 0
    (other,) = prepare_plan(str(make_suite(tmp_path / "plain")), methods=["sat"], root=tmp_path)
    assert len(divide(dataset, other, method_split=False).train) == len(own.train) + len(own.spare)


def test_no_trial_reads_a_test_image(suite, tmp_path, monkeypatch):
    """Nor does the training of the frozen teacher: any access to the sealed test split raises."""

    class Sealed:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"a test image was read: {name}")

    def sealed(name: str, **how: Any) -> Any:
        dataset = load_dataset(name, **how)
        assert dataset.hash  # of both splits, before the test split is sealed
        object.__setattr__(dataset, "test", Sealed())
        return dataset

    monkeypatch.setattr(pipeline, "load_dataset", sealed)
    tune(suite, root=tmp_path)
    assert len(rows_of(tmp_path)) == 12
    monkeypatch.setattr(benchmark, "builder", SimpleNamespace(build=None))
    with pytest.raises(AssertionError, match="a test image was read"):
        run_suite(suite, root=tmp_path, methods=["sat"])


def test_a_trial_keeps_no_weights_and_is_on_no_board(tuned, suite):
    for row in rows_of(tuned):
        folder = RunFolder(tuned / "results" / "tiny" / row.method / row.run_id)
        assert {path.name for path in folder.path.iterdir()} == {"run.json", "history.csv"}
        assert folder.read()["status"] == "trained"
    assert find_runs(tuned / "results", "tiny") == []


def test_a_setting_that_diverges_is_a_finding_and_not_a_failure(make_suite, tmp_path):
    wild = str(make_suite(tmp_path / "wild", tuning={**TUNING, "lr": [1e30, 0.1]}))
    tune(wild, methods=["sat"], root=tmp_path)
    rows = rows_of(tmp_path, "sat")
    assert [row.status for row in rows[:2]] == ["diverged", "scored"]
    assert settings(tmp_path).methods["sat"].recipe == {"lr": 0.1}
    assert "diverged" in render_trials(wild, tmp_path)
    hopeless = str(make_suite(tmp_path / "hopeless", tuning={**TUNING, "lr": [1e30]}))
    said: list[str] = []
    tune(hopeless, methods=["sat"], root=tmp_path / "none", trials=1, say=said.append)
    assert said[0] == "sat: trial 1 of 1: lr 1e+30 (seed 1000)"
    assert said[1].startswith("tiny v1: 1 trial of sat; seed 1000; 0 done")
    assert choices(said) == ["sat: every trial diverged; it stays untuned"]
    assert settings(tmp_path / "none").methods == {}


def test_the_same_seeds_make_the_same_choice(tuned, suite, tmp_path):
    tune(suite, root=tmp_path)
    assert user_path(tmp_path, "tiny", 1).read_bytes() == user_path(tuned, "tiny", 1).read_bytes()
    assert timeless(tmp_path) == timeless(tuned)


def test_a_killed_tuning_goes_on_and_ends_as_one_that_was_not(tuned, suite, tmp_path):
    """SIGKILL at moments from the first trial to the last; each start resumes from the files of the one before."""
    kills = 0
    for moment in (9, 40, 77, 121, 160):
        child = os.fork()
        if child == 0:
            signal.alarm(200)
            die_at_rename(moment)
            try:
                tune(suite, root=tmp_path)
            except BaseException:
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        kills += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status):
            break
    assert kills >= 3
    tune(suite, root=tmp_path)
    assert user_path(tmp_path, "tiny", 1).read_bytes() == user_path(tuned, "tiny", 1).read_bytes()
    assert timeless(tmp_path) == timeless(tuned)


def test_finished_trials_are_taken_from_the_table_alone(tuned, suite, tmp_path, launched):
    """As in a new checkout, which has the committed table and no run folders: only the frozen teacher is trained."""
    tune(suite, root=copy_tuning(tuned, tmp_path))
    assert [(spec.role, spec.trial) for spec in launched] == [("teacher", None)]
    assert timeless(tmp_path) == timeless(tuned)
    launched.clear()
    tune(suite, root=tmp_path)
    assert launched == []


def test_a_method_that_is_also_the_warm_start_has_rows_of_its_own(make_suite, tmp_path, launched):
    suite = str(make_suite(tmp_path / "suite", tuning=TUNING, warm_start={"method": "sat"}))
    tune(suite, methods=["sat", "frl"], root=tmp_path)
    rows = {name: rows_of(tmp_path, name) for name in ("warm-start", "sat", "frl")}
    assert {len(of_method) for of_method in rows.values()} == {4}
    assert [row.run_id for row in rows["sat"]] == [row.run_id for row in rows["warm-start"]]
    assert len([spec for spec in launched if spec.trial and spec.label != "frl"]) == 4  # equal trials run once


def test_a_changed_teacher_voids_the_trials_of_its_students(tuned, suite, tmp_path, launched):
    root = copy_tuning(tuned, tmp_path)
    chosen = settings(root)
    before = chosen.prerequisites["teacher"]
    other = {"lr": 0.05 if before.recipe["lr"] == 0.2 else 0.2}
    (bare, *_) = prepare_plan(suite, root=tmp_path / "none")
    changed = bare.model_copy(update={"recipe": bare.recipe.override(other, "test")})
    entry = before.model_copy(update={"recipe": other, "options": {}, "frozen": changed.frozen_id})
    user_path(root, "tiny", 1).write_text(
        chosen_text(chosen.model_copy(update={"prerequisites": {"teacher": entry}})), encoding="utf-8"
    )
    said: list[str] = []
    marks = {spec.label: spec.tuning for spec in prepare_plan(suite, root=root, say=said.append)}
    assert marks == {"teacher": "tuned", "sat": "tuned", "absld": "untuned"}
    assert any("the tuned settings of absld are void" in line for line in said)
    tune(suite, root=root)
    assert {spec.label for spec in launched if spec.trial} == {"absld"}
    assert {row.prerequisites for row in rows_of(root, "absld")} == {f"teacher={changed.frozen_id}"}
    assert prepare_plan(suite, methods=["absld"], root=root)[-1].tuning == "tuned"


def test_another_budget_leaves_the_trials_of_the_first_in_the_table(tuned, suite, tmp_path, launched, monkeypatch):
    root = copy_tuning(tuned, tmp_path)
    before = rows_of(root, "sat")
    shown = render_trials(suite, root, ["sat"])
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["fairbench.run.tuning.tune"], "_execute", _stop)
        with pytest.raises(KeyboardInterrupt):
            tune(suite, methods=["sat"], root=root, trials=5)
    assert [row for row in rows_of(root, "sat") if row.budget == before[0].budget] == before
    assert render_trials(suite, root, ["sat"]).partition("\n\n")[0] == shown.partition("\n\n")[0]
    tune(suite, methods=["sat"], root=root, trials=5)
    more = [row for row in rows_of(root, "sat") if row not in before]
    assert [row.trial for row in more] == list(range(5))
    assert [row.run_id for row in more[:2]] == [row.run_id for row in before[:2]]
    assert settings(root).methods["sat"].budget == more[0].budget != before[0].budget
    lines = render_trials(suite, root, ["sat"]).splitlines()
    assert sum(int(line.split()[3]) for line in lines if line.startswith("sat ")) == 5
    assert "rows of other budgets in the table, not shown: 4" in lines
    launched.clear()
    tune(suite, methods=["sat"], root=root)
    assert launched == []
    assert settings(root).methods["sat"] == settings(tuned).methods["sat"]


def test_other_seeds_do_not_replace_finished_trials(tuned, suite, tmp_path, launched, fairbench):
    root = copy_tuning(tuned, tmp_path)
    table = table_path(root, "tiny", 1)
    before = table.read_bytes()
    code, _, said = fairbench("tune", suite, "--methods", "sat", "--seeds", "2000", "--jobs", "1", "--out", str(root))
    assert code == 2
    assert said.splitlines()[-1] == (
        f"fairbench: {table}: has trials of sat on seeds 1000, 1001, which trials on other seeds would replace: tune "
        "with the same --seeds, or in another folder (--out)"
    )
    assert table.read_bytes() == before
    assert [spec for spec in launched if spec.trial] == []


def _stop(specs: list[Any], **_: Any) -> None:
    """End the tuning before its first trial, as Ctrl-C does."""
    if any(spec.trial for spec in specs):
        raise KeyboardInterrupt
