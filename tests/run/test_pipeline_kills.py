"""A run that is killed at any moment ends with the bits of an uninterrupted run."""

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

import pytest
import torch
from tiny_runs import ATTACKS, FILES, bits, copy_runs, tiny_specs

from fairbench.leaderboard import builder
from fairbench.results.folder import RunFolder
from fairbench.run.pipeline import execute_run, is_done
from fairbench.suites.spec import RunSpec
from mortal import die_at_rename

pytestmark = pytest.mark.usefixtures("one_thread")


def _die_at_rename(spec: RunSpec, results: Path, moment: int) -> bool:
    """Execute the run in a child that kills itself before (even) or after (odd) its n-th rename; False if it ends
    before.
    """
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        signal.alarm(120)
        die_at_rename(moment)
        try:
            execute_run(spec, results)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the run failed"
    assert not os.WIFSIGNALED(status) or os.WTERMSIG(status) == signal.SIGKILL
    return os.WIFSIGNALED(status)


def _finish_after(moments: Any, finished: tuple[RunSpec, Path], root: Path) -> int:
    """Kill a run at each of these moments, finish it, and compare; returns the number of successful kills."""
    spec, results = finished
    expected = bits(RunFolder(results / spec.folder))
    for count, moment in enumerate(moments):
        folder = copy_runs(finished, root / str(moment), student=False)
        if not _die_at_rename(spec, root / str(moment), moment):
            return count
        record = execute_run(spec, root / str(moment))
        assert {path.name for path in folder.path.iterdir()} == FILES, moment
        assert bits(folder) == expected, moment
        assert record["metrics"] == RunFolder(results / spec.folder).read()["metrics"]
    return count + 1


def test_a_kill_at_a_write_changes_no_bit(finished, tmp_path):
    # before the first history; after a resume, before a status, after the training's record, after verdicts, at the
    # end, and before the last attack's journal goes
    assert _finish_after([0, 5, 12, 17, 19, 25, 29], finished, tmp_path) == 7


@pytest.mark.slow
def test_a_kill_at_any_write_changes_no_bit(finished, tmp_path):
    killed = _finish_after(range(1000), finished, tmp_path)
    assert killed >= 26


@pytest.mark.parametrize("moment", range(7))
def test_a_kill_while_an_attack_is_added_to_a_finished_run_changes_no_bit(finished, tiny, tmp_path, moment):
    folder, undisturbed = copy_runs(finished, tmp_path / "a"), copy_runs(finished, tmp_path / "b")
    more = tiny_specs(tiny, evaluation={**ATTACKS, "best": [*ATTACKS["best"], "fgsm"]})[-1]
    assert _die_at_rename(more, tmp_path / "a", moment)
    assert builder.build_boards(tmp_path / "a", tmp_path / "boards", "tiny")
    execute_run(finished[0], tmp_path / "a")
    execute_run(more, tmp_path / "a")
    execute_run(more, tmp_path / "b")
    assert bits(folder) == bits(undisturbed)
    assert folder.read()["metrics"] == undisturbed.read()["metrics"]
    assert is_done(more, folder)


def _start_worker(spec: RunSpec, results: Path) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "fairbench.run.launch.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    worker.stdin.write(json.dumps({"spec": spec.model_dump(mode="json"), "results": str(results)}))
    worker.stdin.close()
    return worker


def _kill_worker(spec: RunSpec, results: Path, stage: str, done: int, delay: float) -> bool:
    """Run a worker and kill it some seconds after it reports this progress of a stage; False if it ends before."""
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


def test_a_worker_killed_in_training_selection_and_evaluation_ends_with_the_same_bits(tiny, tmp_path):
    spec = tiny_specs(tiny, "sat", recipe__epochs=12)[-1]
    moments = [("start", 0, 0.5), ("train", 2, 0.07), ("train", 9, 0.02), ("evaluate best/clean", 40, 0.03)]
    assert [_kill_worker(spec, tmp_path / "killed", *moment) for moment in moments] == [True] * 4
    worker = _start_worker(spec, tmp_path / "killed")
    with worker:
        events = [json.loads(line) for line in worker.stdout]
    assert worker.returncode == 0
    assert "train" not in {event["stage"] for event in events}
    execute_run(spec, tmp_path / "whole")
    folders = [RunFolder(tmp_path / name / spec.folder) for name in ("killed", "whole")]
    assert {path.name for path in folders[0].path.iterdir()} == FILES
    assert bits(folders[0]) == bits(folders[1])


@pytest.mark.slow
def test_twenty_random_kills_end_with_the_same_bits(tiny, tmp_path):
    spec = tiny_specs(tiny, "sat", recipe__epochs=40)[-1]
    execute_run(spec, tmp_path / "whole")
    expected = bits(RunFolder(tmp_path / "whole" / spec.folder))
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
        assert bits(folder) == expected
        attempt += 1
        assert attempt < 100
    execute_run(spec, tmp_path / str(attempt))
    assert bits(RunFolder(tmp_path / str(attempt) / spec.folder)) == expected
