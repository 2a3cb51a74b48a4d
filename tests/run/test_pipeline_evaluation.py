"""The attacks on a run: added and removed attacks, and killed evaluations."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import ATTACKS, FILES, bits, copy_runs, refuse, tiny_specs

from fairbench.data import load_dataset
from fairbench.errors import Missing
from fairbench.evaluation.batches import BatchVerdicts
from fairbench.evaluation.journal import Journal
from fairbench.evaluation.store import unpack
from fairbench.gate.evidence import read_evidence
from fairbench.gate.matching import matched
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.builder import build_boards
from fairbench.leaderboard.rows import rows_of
from fairbench.results.folder import RunFolder
from fairbench.results.record import MAX_PROTOCOLS
from fairbench.run import pipeline
from fairbench.run.entries import protocol_of, with_protocol
from fairbench.run.launch import LogLines, launch_local
from fairbench.run.pipeline import evaluate_run, execute_run, is_done, train_run
from fairbench.run.plan import plan
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import load_suite

FAST = "autoattack-fast:queries=5,steps=2,targets=1"
BATCHED = {"best": ["clean", FAST, "pgd-20"], "last": [], "batch_size": 7}

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_new_attack_is_evaluated_on_the_trained_weights_alone(finished, tiny, tmp_path, monkeypatch):
    folder = copy_runs(finished, tmp_path)
    more = tiny_specs(tiny, evaluation={**ATTACKS, "best": [*ATTACKS["best"], "fgsm"]})[-1]
    assert more.run_id == finished[0].run_id
    assert more.protocol != finished[0].protocol
    assert is_done(finished[0], folder)
    assert not is_done(more, folder)
    weights, stored = bits(folder), folder.read_verdicts()
    monkeypatch.setattr("fairbench.run.pipeline.train", refuse)
    stages = []
    record = execute_run(more, tmp_path, progress=lambda stage, *_: stages.append(stage))
    assert set(stages) == {"evaluate best/fgsm"}
    assert is_done(more, folder)
    assert record["protocols"]["1"]["hash"] == more.protocol
    assert {name: bits(folder)[name] for name in ("best.safetensors", "last.safetensors", "history.csv")} == {
        name: weights[name] for name in ("best.safetensors", "last.safetensors", "history.csv")
    }
    now = folder.read_verdicts()
    assert set(now) == {*stored, "best/fgsm"}
    assert all(np.array_equal(now[key], stored[key]) for key in stored)


def test_a_dropped_attack_costs_nothing_but_moves_the_run_to_the_protocol_of_now(finished, tiny, tmp_path, monkeypatch):
    folder = copy_runs(finished, tmp_path)
    fewer = tiny_specs(tiny, evaluation={**ATTACKS, "last": []})[-1]
    for stage in ("train", "attack_checkpoint"):
        monkeypatch.setattr(f"fairbench.run.pipeline.{stage}", refuse)
    execute_run(fewer, tmp_path)
    assert folder.read()["protocols"]["1"] == {
        "hash": fewer.protocol,
        "best": ATTACKS["best"],
        "last": [],
        "quick": False,
        "custom": False,
    }
    assert {row["checkpoint"] for row in rows_of(folder, folder.read(), "1")} == {"best"}


@pytest.mark.parametrize("attacks", [ATTACKS["best"], [*ATTACKS["best"], "fgsm"]])
def test_changed_settings_leave_the_suites_own_board_its_runs(finished, tiny, tmp_path, monkeypatch, attacks):
    """A changed network shares the teacher with the suite's own board, changed attacks share every run."""
    own = finished[0]
    copy_runs(finished, tmp_path / "results")
    (board,) = build_boards(tmp_path / "results", tmp_path / "leaderboards", own.suite)
    before = board.read_bytes()
    changed = tiny_specs(tiny, evaluation={**ATTACKS, "best": attacks})[-1]
    changed = changed.model_copy(update={"custom": True, "changes": "c1", "command": "fairbench run --set"})
    assert changed.run_id == own.run_id
    folder = RunFolder(tmp_path / "results" / own.folder)
    assert not is_done(changed, folder)
    monkeypatch.setattr("fairbench.run.pipeline.train", refuse)
    execute_run(changed, tmp_path / "results")
    assert is_done(changed, folder)
    assert is_done(own, folder)
    built = build_boards(tmp_path / "results", tmp_path / "leaderboards", own.suite)
    assert {path.name for path in built} == {board.name, "v1.custom-c1.csv"}
    assert board.read_bytes() == before
    rows = {path.name: load_leaderboard(path) for path in built}
    assert set(rows["v1.custom-c1.csv"]["attack"]) == {*attacks, "union"}
    commands = {name: set(frame["command"].dropna()) for name, frame in rows.items()}
    assert commands == {board.name: set(), "v1.custom-c1.csv": {"fairbench run --set"}}
    pairs = matched(*2 * [read_evidence(tmp_path / "results")], attack="union").pairs
    assert {(pair.before.protocol, pair.before.custom) for pair in pairs} == {(own.protocol, False)}


def test_a_record_of_before_has_changed_settings_under_the_version(finished, tmp_path):
    changed = finished[0].model_copy(update={"custom": True})
    folder = copy_runs(finished, tmp_path)
    folder.write({**folder.read(), "protocols": {"1": protocol_of(changed)}})
    assert is_done(changed, folder)
    assert not is_done(finished[0], folder)
    execute_run(finished[0], tmp_path)
    assert is_done(changed, folder)
    assert is_done(finished[0], folder)
    assert not folder.read()["spec"]["custom"]


def test_a_record_keeps_as_many_protocols_as_can_be_read(finished):
    spec = finished[0].model_copy(update={"custom": True})
    record = {"spec": {"custom": False}, "protocols": {"1": protocol_of(finished[0])}}
    for number in range(MAX_PROTOCOLS + 5):
        record |= with_protocol(spec.model_copy(update={"changes": f"{number:x}"}), record)
    assert len(record["protocols"]) == MAX_PROTOCOLS
    assert {"1", f"1.custom-{MAX_PROTOCOLS + 4:x}"} <= set(record["protocols"])
    assert "1.custom-0" not in record["protocols"]


def test_lost_verdicts_are_made_again(finished, tmp_path, monkeypatch):
    folder = copy_runs(finished, tmp_path)
    before = folder.verdicts.read_bytes()
    folder.verdicts.unlink()
    monkeypatch.setattr("fairbench.run.pipeline.train", refuse)
    execute_run(finished[0], tmp_path)
    assert folder.verdicts.read_bytes() == before


def test_a_run_that_is_not_trained_cannot_be_evaluated(finished, tmp_path):
    spec = finished[0]
    with pytest.raises(Missing, match="no trained weights"):
        evaluate_run(spec, RunFolder(tmp_path / spec.folder), load_dataset(spec.data.name))


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> tuple[RunSpec, Path]:
    """A specification whose evaluation takes six batches an attack, and the results of its training alone."""
    spec, results = tiny_specs(tiny, "sat", evaluation=BATCHED)[-1], tmp_path_factory.mktemp("trained")
    (results / spec.folder).mkdir(parents=True)
    train_run(spec, RunFolder(results / spec.folder), load_dataset(spec.data.name), results)
    return spec, results


def _die_at_batch(spec: RunSpec, results: Path, moment: int) -> None:
    """Execute the run in a child that kills itself before (even) or after (odd) it has recorded its n-th batch."""
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        batches, append = 0, Journal.append

        def dying(journal: Journal, batch: BatchVerdicts) -> None:
            nonlocal batches
            if moment == 2 * batches:
                os.kill(os.getpid(), signal.SIGKILL)
            append(journal, batch)
            if moment == 2 * batches + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            batches += 1

        Journal.append = dying
        execute_run(spec, results)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.fixture(scope="module")
def undisturbed(trained, tmp_path_factory) -> RunFolder:
    """The same run, evaluated without interruption."""
    results = tmp_path_factory.mktemp("undisturbed")
    folder = copy_runs(trained, results)
    execute_run(trained[0], results)
    return folder


@pytest.mark.parametrize("moment", [0, 7, 16, 35])
def test_a_kill_in_an_evaluation_loses_the_batch_it_was_at(trained, undisturbed, tmp_path, moment):
    spec, folder, expected = trained[0], copy_runs(trained, tmp_path / "killed"), undisturbed.read()
    _die_at_batch(spec, tmp_path / "killed", moment)
    attack, batches = divmod((moment + 1) // 2, 6)
    if batches:
        assert len(folder.partial.read_bytes().splitlines()) == 1 + batches
    seen = []
    record = execute_run(
        spec, tmp_path / "killed", progress=lambda stage, done, _total, _note: seen.append((stage, done))
    )
    every = [(f"evaluate best/{text}", min(7 * k, 40)) for text in BATCHED["best"] for k in range(1, 7)]
    assert seen == every[6 * attack + batches :]
    assert {path.name for path in folder.path.iterdir()} == FILES
    assert bits(folder) == bits(undisturbed)
    assert record["metrics"] == expected["metrics"]
    assert record["flags"] == expected["flags"]
    for key, cost in record["evaluations"].items():  # what was spent before the kill counts, and what is done once more
        assert cost["backwards"] == expected["evaluations"][key]["backwards"]
        again = 2 + 3 + (0 if key == "best/clean" else 16)  # first looks at 2 and at 3 images, the copy's trial on 16
        assert cost["forwards"] - expected["evaluations"][key]["forwards"] in (0, again)
        assert cost["seconds"] > 0


def test_a_resumed_evaluation_uses_the_engine_that_the_run_recorded(trained, tmp_path, monkeypatch):
    """The machine that resumes would choose another engine for a new run."""
    spec = trained[0].model_copy(update={"environment": trained[0].environment.model_copy(update={"engine": "torch"})})
    folder, used = RunFolder(tmp_path / spec.folder), []
    copy_runs(trained, tmp_path, student=False)
    monkeypatch.setattr("fairbench.copies.engine.can_compile", lambda: True)
    evaluate = pipeline.sharded_verdicts
    monkeypatch.setattr(
        pipeline, "sharded_verdicts", lambda *a, **how: used.append(how["engine"]) or evaluate(*a, **how)
    )
    monkeypatch.setattr(Journal, "append", _stopping(Journal.append, 8))
    with pytest.raises(_Stopped):
        execute_run(spec, tmp_path)
    monkeypatch.setattr(Journal, "append", _stopping(Journal.append, 10**6))
    record = execute_run(spec, tmp_path)
    assert set(used) == {"torch"}
    assert record["spec"]["environment"]["engine"] == "torch"
    engines = {key: cost["engine"] for key, cost in record["evaluations"].items()}
    assert engines == {"best/clean": "plain", f"best/{FAST}": "torch", "best/pgd-20": "torch"}
    assert folder.read() == record


class _Stopped(BaseException):
    """Ends a run as Ctrl-C does."""


def _stopping(append, batches):
    """Return a method that writes so many batches and then stops the run."""
    left = [batches]

    def write(journal, batch):
        append(journal, batch)
        left[0] -= 1
        if not left[0]:
            raise _Stopped

    return write


def test_a_run_says_which_component_broke_an_image_and_what_looks_wrong(undisturbed):
    record = undisturbed.read()
    stored = {key.removeprefix("best/"): array for key, array in undisturbed.read_verdicts().items()}
    verdicts = unpack(stored, BATCHED["best"], 4)
    assert list(verdicts) == BATCHED["best"]
    assert list(verdicts.components) == [FAST]
    assert list(verdicts.components[FAST])[:2] == ["clean", "apgd-ce"]
    assert set(verdicts.first_break()) >= {"", "clean", f"{FAST}#apgd-ce"}
    assert set(record["metrics"]) == {f"best/{text}" for text in BATCHED["best"]}
    assert record["flags"].keys() == {"best"}
    assert record["flags"]["best"]["small-n"] == {"value": 10.0, "red": True}
    assert not record["flags"]["best"]["random-forward"]["red"]


def test_a_run_without_flags_is_done_and_gets_them_with_its_next_attack(finished, tiny, tmp_path, monkeypatch):
    folder = copy_runs(finished, tmp_path)
    old = {key: value for key, value in folder.read().items() if key != "flags"}
    folder.write(old)
    with monkeypatch.context() as patch:
        patch.setattr("fairbench.run.pipeline.attack_checkpoint", refuse)
        patch.setattr("fairbench.run.pipeline.raise_flags", refuse)
        assert "flags" not in execute_run(finished[0], tmp_path)
    more = tiny_specs(tiny, evaluation={**ATTACKS, "best": [*ATTACKS["best"], "fgsm"]})[-1]
    assert execute_run(more, tmp_path)["flags"].keys() == {"best"}


def test_verdicts_do_not_depend_on_how_many_jobs_run_at_once(tiny, tmp_path):
    quick = {"recipe.epochs": 1, "evaluation": {"best": ["clean", "pgd-20"], "last": [], "batch_size": 40}}
    specs = plan(load_suite(str(tiny)).override(quick), methods=["sat"], seeds=[0, 1])
    launch_local(specs, tmp_path / "two", jobs=2, view=LogLines())
    for spec in specs:
        execute_run(spec, tmp_path / "alone")
        folders = [RunFolder(tmp_path / name / spec.folder) for name in ("two", "alone")]
        assert bits(folders[0]) == bits(folders[1])
