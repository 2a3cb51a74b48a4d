"""An interrupted command ends soon, keeps its state, and resumes when it is run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from fairbench.results.folder import RunFolder
from fairbench.run.pipeline import execute_run
from fairbench.run.plan import plan
from fairbench.suites.suite import load_suite

COMMAND = [sys.executable, "-m", "fairbench.cli"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def _interrupt(command: list[str], folder: Path, number: signal.Signals, stage: str) -> tuple[int, float, str]:
    """Start a command and send it a signal when its log first names a stage; return exit code, seconds and log."""
    process = subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        log = ""
        for line in process.stderr:
            log += line
            if stage in line:
                break
        process.send_signal(number)
        begin = time.monotonic()
        log += process.stderr.read()
        process.wait(60)
        seconds = time.monotonic() - begin
        assert process.stdout.read() == ""
    return process.returncode, seconds, log


def test_an_interrupted_run_ends_soon_keeps_its_state_and_is_finished_by_the_same_command(make_suite, tmp_path):
    suite = make_suite(tmp_path / "suite", methods=["sat"])
    command = [*COMMAND, "run", str(suite), "--out", "out", "--set", "recipe.epochs=60"]
    for number, stage in ((signal.SIGINT, "train 1/"), (signal.SIGTERM, "train ")):
        code, seconds, log = _interrupt(command, tmp_path, number, stage)
        assert code == 130
        assert seconds < 30
        assert log.splitlines()[-1].startswith("fairbench: stopped; finished work is kept")
        assert "Traceback" not in log
        (resume,) = tmp_path.glob("out/results/tiny/sat/*/resume.json")
        epoch = json.loads(resume.read_text())["epoch"]
        assert 1 <= epoch < 60
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"train {epoch + 1}/60" in done.stderr
    torch.set_num_threads(1)
    spec = plan(load_suite(str(suite)), overrides={"recipe.epochs": 60})[-1]
    execute_run(spec, tmp_path / "whole")
    folders = [RunFolder(tmp_path / root / spec.folder) for root in ("out/results", "whole")]
    for name in ("best", "last", "verdicts", "history"):
        assert getattr(folders[0], name).read_bytes() == getattr(folders[1], name).read_bytes(), name


def test_an_interrupted_evaluation_ends_soon(finished, tmp_path):
    command = [*COMMAND, "evaluate", str(finished.best), "--dataset", finished.data, "--attacks", "clean,pgd-200000"]
    code, seconds, log = _interrupt(command, tmp_path, signal.SIGINT, "clean 40/40")
    assert code == 130
    assert seconds < 30
    assert log.splitlines()[-1].startswith("fairbench: stopped")
    assert "Traceback" not in log
