"""The command line in this process, and a run that it has finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from fairbench import cli

COMMAND = [sys.executable, "-m", "fairbench.cli"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def fairbench(monkeypatch, capsys, tmp_path):
    """Return `fairbench(*arguments) -> (code, stdout, lines of stderr)`: the command line in this process."""
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["fairbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err.splitlines()

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


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
