"""The command line in this process, and a run that it has finished."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

COMMAND = [sys.executable, "-m", "fairbench.cli"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def fairbench(fairbench, monkeypatch, tmp_path):
    """Return `fairbench(*arguments) -> (code, stdout, lines of stderr)`: the command line in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        code, out, err = fairbench(*arguments)
        return code, out, err.splitlines()

    return call


@pytest.fixture(scope="session")
def finished(make_suite, tmp_path_factory) -> SimpleNamespace:
    """`fairbench run` as a user starts it, of one method; its output, and where the checkpoint is."""
    folder = tmp_path_factory.mktemp("cli")
    suite = make_suite(folder / "suite", methods=["sat"])
    command = [*COMMAND, "run", str(suite), "--out", "out"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (best,) = folder.glob("out/results/tiny/sat/*/best.safetensors")
    board = folder / "out" / "leaderboards" / "tiny" / "v1.csv"
    data = f"npz:{folder}/suite/test.npz"
    return SimpleNamespace(folder=folder, suite=suite, out=folder / "out", done=done, best=best, board=board, data=data)
