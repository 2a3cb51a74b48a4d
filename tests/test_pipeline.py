from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairbench.config import RunSpec, load_suite
from fairbench.data import load_dataset
from fairbench.errors import CorruptFile, Diverged, InvalidInput, Missing
from fairbench.journal import Batch, Journal
from fairbench.launch import LogLines, launch
from fairbench.leaderboard import builder
from fairbench.pipeline import evaluate_run, execute, is_done, train_run
from fairbench.plan import plan
from fairbench.results import RunFolder
from mortal import die_at_rename

FILES = {"run.json", "verdicts.npz", "history.csv", "best.safetensors", "last.safetensors"}
MEASURED = {"train_seconds", "eval_seconds", "images_per_second", "peak_memory_mb", "created"}
ATTACKS = {"best": ["clean", "pgd-10:rel_step=0.25"], "last": ["clean"], "batch_size": 40}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def suite(make_suite, tmp_path_factory) -> Path:
    return make_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def finished(suite, tmp_path_factory) -> tuple[RunSpec, Path]:
    """A student's specification, and the results of its teacher and itself."""
    results = tmp_path_factory.mktemp("finished")
    specs = _specs(suite)
    for spec in specs:
        execute(spec, results)
    return specs[-1], results


def _specs(suite: Path, method: str = "absld", **changes: Any) -> list[RunSpec]:
    chosen = load_suite(str(suite)).override({key.replace("__", "."): value for key, value in changes.items()})
    return plan(chosen, methods=[method])


def _copy(finished: tuple[RunSpec, Path], target: Path, *, student: bool = True) -> RunFolder:
    """A copy of the results, of the teacher's alone unless `student`; returns the student's folder."""
    spec, results = finished
    for given in [*spec.prerequisites, spec][: 2 if student else 1]:
        assert isinstance(given, RunSpec)
        (target / given.folder).mkdir(parents=True)
        for path in (results / given.folder).iterdir():
            (target / given.folder / path.name).write_bytes(path.read_bytes())
    return RunFolder(target / spec.folder)


def _bits(folder: RunFolder) -> dict[str, bytes]:
    return {name: (folder.path / name).read_bytes() for name in FILES - {"run.json"}}


def _state(root: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file's time of change and content, but for locks, which hold nothing."""
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def _refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("this must not run again")


def test_a_finished_run_has_its_files_and_says_what_made_it(finished):
    spec, results = finished
    folder = RunFolder(results / spec.folder)
    assert {path.name for path in folder.path.iterdir()} == FILES
    record = folder.read()
    assert record["status"] == "complete"
    assert record["spec"] == spec.model_dump(mode="json")
    assert record["run_id"] == spec.run_id == folder.path.name
    assert record["protocols"]["1"]["hash"] == spec.protocol
    assert record["provenance"]["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert record["cost"]["forwards"] > 0
    assert record["cost"]["peak_memory_mb"] > 1
    verdicts = folder.read_verdicts()
    assert list(verdicts) == ["labels", "best/clean", "best/pgd-10:rel_step=0.25", "last/clean"]
    accuracy = np.mean(verdicts["best/clean"] == verdicts["labels"])
    assert record["metrics"]["best/clean"]["average"] == pytest.approx(accuracy)


def test_two_runs_with_one_seed_are_equal_in_weights_verdicts_and_rows(finished, tmp_path):
    spec, results = finished
    again = _copy(finished, tmp_path, student=False)
    torch.rand(5)
    execute(spec, tmp_path)
    first = RunFolder(results / spec.folder)
    assert _bits(again) == _bits(first)
    records = [folder.read() for folder in (first, again)]
    assert records[0]["weights"] == records[1]["weights"]
    rows = [list(builder.rows_of(folder, folder.read(), "1")) for folder in (first, again)]
    assert len(rows[0]) == 5
    for one, other in zip(*rows, strict=True):
        differing = {key for key in one if str(one[key]) != str(other[key])}
        assert differing <= MEASURED


def test_a_finished_run_is_not_run_again(finished, monkeypatch):
    spec, results = finished
    before = _state(results)
    for stage in ("train", "attack_verdicts", "load_dataset"):
        monkeypatch.setattr(f"fairbench.pipeline.{stage}", _refuse)
    start = time.process_time()
    record = execute(spec, results, progress=_refuse)
    assert time.process_time() - start < 1
    assert record["run_id"] == spec.run_id
    assert _state(results) == before


def test_a_new_attack_is_evaluated_on_the_trained_weights_alone(finished, suite, tmp_path, monkeypatch):
    folder = _copy(finished, tmp_path)
    more = _specs(suite, evaluation={**ATTACKS, "best": [*ATTACKS["best"], "fgsm"]})[-1]
    assert more.run_id == finished[0].run_id
    assert more.protocol != finished[0].protocol
    assert is_done(finished[0], folder)
    assert not is_done(more, folder)
    weights, stored = _bits(folder), folder.read_verdicts()
    monkeypatch.setattr("fairbench.pipeline.train", _refuse)
    stages = []
    record = execute(more, tmp_path, progress=lambda stage, *_: stages.append(stage))
    assert set(stages) == {"evaluate best/fgsm"}
    assert is_done(more, folder)
    assert record["protocols"]["1"]["hash"] == more.protocol
    assert {name: _bits(folder)[name] for name in ("best.safetensors", "last.safetensors", "history.csv")} == {
        name: weights[name] for name in ("best.safetensors", "last.safetensors", "history.csv")
    }
    now = folder.read_verdicts()
    assert set(now) == {*stored, "best/fgsm"}
    assert all(np.array_equal(now[key], stored[key]) for key in stored)


def test_a_dropped_attack_costs_nothing_but_moves_the_run_to_the_protocol_of_now(
    finished, suite, tmp_path, monkeypatch
):
    folder = _copy(finished, tmp_path)
    fewer = _specs(suite, evaluation={**ATTACKS, "last": []})[-1]
    for stage in ("train", "attack_verdicts"):
        monkeypatch.setattr(f"fairbench.pipeline.{stage}", _refuse)
    execute(fewer, tmp_path)
    assert folder.read()["protocols"]["1"] == {
        "hash": fewer.protocol,
        "best": ATTACKS["best"],
        "last": [],
        "quick": False,
        "custom": False,
    }
    assert {row["checkpoint"] for row in builder.rows_of(folder, folder.read(), "1")} == {"best"}


def test_lost_verdicts_are_made_again(finished, tmp_path, monkeypatch):
    folder = _copy(finished, tmp_path)
    before = folder.verdicts.read_bytes()
    folder.verdicts.unlink()
    monkeypatch.setattr("fairbench.pipeline.train", _refuse)
    execute(finished[0], tmp_path)
    assert folder.verdicts.read_bytes() == before


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("status", ["complete", "trained"])
def test_a_damaged_file_is_named_moved_aside_and_made_again(finished, tmp_path, name, status):
    spec, results = finished
    folder = _copy(finished, tmp_path)
    path = folder.path / name
    folder.write({**folder.read(), "status": status})
    damaged = bytearray(path.read_bytes())
    middle = len(damaged) // 2
    if name == "run.json":
        del damaged[middle:]
    else:
        damaged[middle] ^= 1
    path.write_bytes(damaged)
    assert not is_done(spec, folder)
    said = []
    execute(spec, tmp_path, say=said.append)
    (line,) = said
    assert line.startswith(f"{path}: ")
    assert line.endswith(f"moved to {name}.corrupt-1, and made again")
    assert path.with_name(f"{name}.corrupt-1").read_bytes() == damaged
    assert _bits(folder) == _bits(RunFolder(results / spec.folder))
    assert is_done(spec, folder)
    execute(spec, tmp_path, say=_refuse)


def test_a_second_damage_does_not_overwrite_what_was_moved_aside(finished, tmp_path):
    folder = _copy(finished, tmp_path)
    for text in ("once", "twice"):
        folder.verdicts.write_text(text)
        execute(finished[0], tmp_path)
    assert [folder.path.joinpath(f"verdicts.npz.corrupt-{n}").read_text() for n in (1, 2)] == ["once", "twice"]


@pytest.mark.parametrize("name", ["resume", "best"])
def test_a_training_whose_checkpoint_is_damaged_starts_over_and_says_so(finished, tmp_path, name, monkeypatch):
    spec, results = finished
    folder = _copy(finished, tmp_path, student=False)

    def interrupted(stage: str, done: int, *_: Any) -> None:
        if (stage, done) == ("train", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(spec, tmp_path, progress=interrupted)
    damaged = bytearray(getattr(folder, name).read_bytes())
    damaged[-5] ^= 1  # in a weight: safetensors itself sees nothing wrong with it
    getattr(folder, name).write_bytes(damaged)
    if name == "best":  # or the next epoch would replace it anyway
        monkeypatch.setattr("fairbench.train.selection.average", lambda *_: -1.0)
    said = []
    execute(spec, tmp_path, say=said.append)
    assert len(said) == 1
    assert said[0].startswith(str(getattr(folder, name)))
    assert said[0].endswith("trained again from the start")
    assert folder.path.joinpath(f"{name}.safetensors.corrupt-1").read_bytes() == damaged
    if name == "resume":
        assert _bits(folder) == _bits(RunFolder(results / spec.folder))


def test_a_teacher_that_is_damaged_or_missing_is_named(finished, tmp_path):
    spec = finished[0]
    with pytest.raises(Missing, match=r"teacher/.*best\.safetensors: the teacher has not been trained yet"):
        execute(spec, tmp_path)
    _copy(finished, tmp_path, student=False)
    teacher = RunFolder(tmp_path / spec.teacher.folder)
    teacher.best.write_bytes(teacher.best.read_bytes()[:-9])
    with pytest.raises(CorruptFile, match=str(teacher.best)):
        execute(spec, tmp_path)


def test_a_run_that_is_not_trained_cannot_be_evaluated(finished, tmp_path):
    spec = finished[0]
    with pytest.raises(Missing, match="no trained weights"):
        evaluate_run(spec, RunFolder(tmp_path / spec.folder), load_dataset(spec.data.name))


def test_data_that_changed_since_the_plan_are_refused(make_suite, tmp_path):
    spec = _specs(make_suite(tmp_path / "suite"), "sat")[-1]
    with np.load(tmp_path / "suite" / "test.npz") as arrays:
        np.savez(tmp_path / "suite" / "test.npz", images=255 - arrays["images"], labels=arrays["labels"])
    with pytest.raises(InvalidInput, match="changed since the run was planned"):
        execute(spec, tmp_path)


def test_a_diverged_run_says_so_each_time_and_keeps_what_it_has(suite, tmp_path):
    spec = _specs(suite, "sat", recipe__lr=1e38, recipe__batch_size=64)[-1]
    folder = RunFolder(tmp_path / spec.folder)
    for _ in range(2):
        with pytest.raises(Diverged, match="epoch 0"):
            execute(spec, tmp_path)
        record = folder.read()
        assert record["status"] == "diverged"
        assert "non-finite value in epoch 0" in record["error"]
    with pytest.raises(Missing, match="no complete run"):
        builder.build(tmp_path, tmp_path / "boards", "tiny")


def _die_at_rename(spec: RunSpec, results: Path, moment: int) -> bool:
    """Execute the run in a child that kills itself before (even) or after (odd) its n-th rename; False if it ends."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        signal.alarm(120)
        die_at_rename(moment)
        try:
            execute(spec, results)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the run failed"
    assert not os.WIFSIGNALED(status) or os.WTERMSIG(status) == signal.SIGKILL
    return os.WIFSIGNALED(status)


def _finish_after(moments: Any, finished: tuple[RunSpec, Path], root: Path) -> int:
    """Kill a run at each of these moments, finish it, and compare; returns at how many it could be killed."""
    spec, results = finished
    expected = _bits(RunFolder(results / spec.folder))
    for count, moment in enumerate(moments):
        folder = _copy(finished, root / str(moment), student=False)
        if not _die_at_rename(spec, root / str(moment), moment):
            return count
        record = execute(spec, root / str(moment))
        assert {path.name for path in folder.path.iterdir()} == FILES, moment
        assert _bits(folder) == expected, moment
        assert record["metrics"] == RunFolder(results / spec.folder).read()["metrics"]
    return count + 1


def test_a_kill_at_a_write_changes_no_bit(finished, tmp_path):
    # before the first history; after a resume, before a status, after the training's record, after verdicts, at the end
    assert _finish_after([0, 5, 12, 17, 19, 25], finished, tmp_path) == 6


@pytest.mark.slow
def test_a_kill_at_any_write_changes_no_bit(finished, tmp_path):
    killed = _finish_after(range(1000), finished, tmp_path)
    assert killed >= 26


@pytest.mark.parametrize("moment", range(5))
def test_a_kill_while_an_attack_is_added_to_a_finished_run_changes_no_bit(finished, suite, tmp_path, moment):
    folder, undisturbed = _copy(finished, tmp_path / "a"), _copy(finished, tmp_path / "b")
    more = _specs(suite, evaluation={**ATTACKS, "best": [*ATTACKS["best"], "fgsm"]})[-1]
    assert _die_at_rename(more, tmp_path / "a", moment)
    assert builder.build(tmp_path / "a", tmp_path / "boards", "tiny")
    execute(finished[0], tmp_path / "a")
    execute(more, tmp_path / "a")
    execute(more, tmp_path / "b")
    assert _bits(folder) == _bits(undisturbed)
    assert folder.read()["metrics"] == undisturbed.read()["metrics"]
    assert is_done(more, folder)


def _start_worker(spec: RunSpec, results: Path) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "fairbench.launch.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    worker.stdin.write(json.dumps({"spec": spec.model_dump(mode="json"), "results": str(results)}))
    worker.stdin.close()
    return worker


def _kill_worker(spec: RunSpec, results: Path, stage: str, done: int, delay: float) -> bool:
    """Run a worker, kill it some seconds after it reports to be that far in a stage; False if it ends before."""
    worker = _start_worker(spec, results)
    with worker:
        for line in worker.stdout:
            event = json.loads(line)
            if event["stage"] == stage and event["done"] >= done:
                time.sleep(delay)
                break
        worker.kill()
    assert worker.returncode in (0, -signal.SIGKILL)
    return worker.returncode != 0


def test_a_worker_killed_in_training_selection_and_evaluation_ends_with_the_same_bits(suite, tmp_path):
    spec = _specs(suite, "sat", recipe__epochs=12)[-1]
    moments = [("start", 0, 0.5), ("train", 2, 0.07), ("train", 9, 0.02), ("evaluate best/clean", 40, 0.03)]
    assert [_kill_worker(spec, tmp_path / "killed", *moment) for moment in moments] == [True] * 4
    worker = _start_worker(spec, tmp_path / "killed")
    with worker:
        events = [json.loads(line) for line in worker.stdout]
    assert worker.returncode == 0
    assert "train" not in {event["stage"] for event in events}
    execute(spec, tmp_path / "whole")
    folders = [RunFolder(tmp_path / name / spec.folder) for name in ("killed", "whole")]
    assert {path.name for path in folders[0].path.iterdir()} == FILES
    assert _bits(folders[0]) == _bits(folders[1])


@pytest.mark.slow
def test_twenty_random_kills_end_with_the_same_bits(suite, tmp_path):
    spec = _specs(suite, "sat", recipe__epochs=40)[-1]
    execute(spec, tmp_path / "whole")
    expected = _bits(RunFolder(tmp_path / "whole" / spec.folder))
    draw = random.Random(0)
    kills = attempt = 0
    while kills < 20:
        results = tmp_path / str(attempt)
        stage, longest = draw.choice([("start", 6.0), ("train", 2.0), ("train", 1.0), ("evaluate best/clean", 0.3)])
        if _kill_worker(spec, results, stage, 0, draw.uniform(0, longest)):
            kills += 1
            continue
        folder = RunFolder(results / spec.folder)
        assert {path.name for path in folder.path.iterdir()} == FILES
        assert _bits(folder) == expected
        attempt += 1
        assert attempt < 100
    execute(spec, tmp_path / str(attempt))
    assert _bits(RunFolder(tmp_path / str(attempt) / spec.folder)) == expected


FAST = "autoattack-fast:queries=5,steps=2,targets=1"
BATCHED = {"best": ["clean", FAST, "pgd-20"], "last": [], "batch_size": 7}


@pytest.fixture(scope="module")
def trained(suite, tmp_path_factory) -> tuple[RunSpec, Path]:
    """A specification whose evaluation takes six batches an attack, and the results of its training alone."""
    spec, results = _specs(suite, "sat", evaluation=BATCHED)[-1], tmp_path_factory.mktemp("trained")
    (results / spec.folder).mkdir(parents=True)
    train_run(spec, RunFolder(results / spec.folder), load_dataset(spec.data.name), results)
    return spec, results


def _die_at_batch(spec: RunSpec, results: Path, moment: int) -> None:
    """Execute the run in a child that kills itself before (even) or after (odd) it has noted its n-th batch."""
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        batches, append = 0, Journal.append

        def dying(journal: Journal, batch: Batch) -> None:
            nonlocal batches
            if moment == 2 * batches:
                os.kill(os.getpid(), signal.SIGKILL)
            append(journal, batch)
            if moment == 2 * batches + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            batches += 1

        Journal.append = dying
        execute(spec, results)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.fixture(scope="module")
def undisturbed(trained, tmp_path_factory) -> RunFolder:
    """The same run, evaluated in one go."""
    results = tmp_path_factory.mktemp("undisturbed")
    folder = _copy(trained, results)
    execute(trained[0], results)
    return folder


@pytest.mark.parametrize("moment", [0, 7, 16, 35])
def test_a_kill_in_an_evaluation_loses_the_batch_it_was_at(trained, undisturbed, tmp_path, moment):
    spec, folder, expected = trained[0], _copy(trained, tmp_path / "killed"), undisturbed.read()
    _die_at_batch(spec, tmp_path / "killed", moment)
    attack, batches = divmod((moment + 1) // 2, 6)
    if batches:
        assert len(folder.partial.read_bytes().splitlines()) == 1 + batches
    seen = []
    record = execute(spec, tmp_path / "killed", progress=lambda stage, done, _total, _note: seen.append((stage, done)))
    every = [(f"evaluate best/{text}", min(7 * k, 40)) for text in BATCHED["best"] for k in range(1, 7)]
    assert seen == every[6 * attack + batches :]
    assert {path.name for path in folder.path.iterdir()} == FILES
    assert _bits(folder) == _bits(undisturbed)
    assert record["metrics"] == expected["metrics"]
    assert record["flags"] == expected["flags"]
    for key, cost in record["evaluations"].items():  # what was spent before the kill counts, and a first look at two
        assert cost["backwards"] == expected["evaluations"][key]["backwards"]
        assert cost["forwards"] - expected["evaluations"][key]["forwards"] in (0, 2)
        assert cost["seconds"] > 0


def test_a_run_says_which_component_broke_an_image_and_what_looks_wrong(undisturbed):
    record = undisturbed.read()
    verdicts = undisturbed.verdicts_of("best", BATCHED["best"], 4)
    assert list(verdicts) == BATCHED["best"]
    assert list(verdicts.components) == [FAST]
    assert list(verdicts.components[FAST])[:2] == ["clean", "apgd-ce"]
    assert set(verdicts.first_break()) >= {"", "clean", f"{FAST}#apgd-ce"}
    assert set(record["metrics"]) == {f"best/{text}" for text in BATCHED["best"]}
    assert record["flags"].keys() == {"best"}
    assert record["flags"]["best"]["small-n"] == {"value": 10.0, "red": True}
    assert not record["flags"]["best"]["random-forward"]["red"]


def test_a_run_without_flags_is_done_and_gets_them_with_its_next_attack(finished, suite, tmp_path, monkeypatch):
    folder = _copy(finished, tmp_path)
    old = {key: value for key, value in folder.read().items() if key != "flags"}
    folder.write(old)
    with monkeypatch.context() as patch:
        patch.setattr("fairbench.pipeline.attack_verdicts", _refuse)
        patch.setattr("fairbench.pipeline.check", _refuse)
        assert "flags" not in execute(finished[0], tmp_path)
    more = _specs(suite, evaluation={**ATTACKS, "best": [*ATTACKS["best"], "fgsm"]})[-1]
    assert execute(more, tmp_path)["flags"].keys() == {"best"}


def test_verdicts_do_not_depend_on_how_many_jobs_run_at_once(suite, tmp_path):
    quick = {"recipe.epochs": 1, "evaluation": {"best": ["clean", "pgd-20"], "last": [], "batch_size": 40}}
    specs = plan(load_suite(str(suite)).override(quick), methods=["sat"], seeds=[0, 1])
    launch(specs, tmp_path / "two", jobs=2, view=LogLines())
    for spec in specs:
        execute(spec, tmp_path / "alone")
        folders = [RunFolder(tmp_path / name / spec.folder) for name in ("two", "alone")]
        assert _bits(folders[0]) == _bits(folders[1])
