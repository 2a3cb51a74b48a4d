"""The command line on whatever comes: it ends soon, with a documented exit code, and says what is wrong in a line."""

from __future__ import annotations

import contextlib
import io
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from fairbench import cli
from fairbench.leaderboard import builder
from fairbench.run.pipeline import execute_run
from fairbench.run.plan import plan
from fairbench.suites.suite import load_suite

SECONDS = 60
# What a command may take beside ten times the bytes that it is given.
FREE_BYTES = 500_000_000


class _Hangs(BaseException):
    pass


def _too_long(*_: Any) -> None:
    raise _Hangs


@pytest.fixture(scope="session")
def bench(make_suite, tmp_path_factory) -> SimpleNamespace:
    """A finished run and its board, small enough to read hundreds of times."""
    root = tmp_path_factory.mktemp("fuzz")
    suite = make_suite(root / "suite", methods=["sat"], evaluation={"best": ["clean"], "last": [], "batch_size": 40})
    torch.set_num_threads(1)
    (spec,) = plan(load_suite(str(suite)))
    execute_run(spec, root / "results")
    (board,) = builder.build_boards(root / "results", root / "leaderboards", "tiny")
    run = root / "results" / spec.folder
    data = root / "suite" / "test.npz"
    return SimpleNamespace(root=root, suite=suite, spec=spec, board=board, run=run, data=data)


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _restart_peak() -> int:
    """Have the system forget how much memory this process ever held; returns what it holds now, in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


@pytest.fixture
def bounded(tmp_path, monkeypatch) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Return `bounded()`, a block for calls of the package in `tmp_path / "here"`.

    It fails the test for a hang, for anything that appears beside that folder, and for more memory than 500 MB.
    """
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    @contextlib.contextmanager
    def block() -> Iterator[None]:
        beside, before = sorted(tmp_path.iterdir()), _restart_peak()
        handler = signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(SECONDS)
        try:
            yield
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, handler)
        assert _peak() - before < FREE_BYTES
        assert sorted(tmp_path.iterdir()) == beside

    return block


@pytest.fixture
def command(own_handlers, one_thread, tmp_path, monkeypatch) -> Callable[..., int]:
    """Return `command(*arguments) -> exit code`, which fails the test for a traceback, a hang or more than one line.

    It works in a folder of its own, `tmp_path / "here"`, and fails the test when anything appears beside it, or when it
    takes more memory than ten times the files there and 500 MB. What it printed is `command.said`.
    """
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def call(*arguments: object) -> int:
        beside, given = sorted(tmp_path.iterdir()), _bytes_of(here)
        before = _restart_peak()
        monkeypatch.setattr(sys, "argv", ["fairbench", *map(str, arguments)])
        out, err = io.StringIO(), io.StringIO()
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(SECONDS)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        finally:
            signal.alarm(0)
        call.said = out.getvalue() + err.getvalue()  # type: ignore[attr-defined]
        assert _peak() - before < FREE_BYTES + 10 * given
        said = [line for line in err.getvalue().splitlines() if line.startswith("fairbench: ")]
        assert code in (0, 2), (code, err.getvalue())
        assert len(said) == (code == 2), err.getvalue()
        assert "Traceback" not in err.getvalue()
        assert len(err.getvalue()) < 20_000
        assert sorted(tmp_path.iterdir()) == beside
        return int(code)

    return call


@pytest.fixture(
    params=[pytest.param(30, id="some"), pytest.param(1000, id="many", marks=pytest.mark.slow)],
)
def fuzz(request) -> Callable[[Any, Callable[[Any], None]], None]:
    """Return `fuzz(strategy, body)`, which calls `body` on some or on many values."""

    def run(strategy: Any, body: Callable[[Any], None]) -> None:
        @settings(
            max_examples=request.param,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def test(value: Any) -> None:
            body(value)

        test()

    return run


@pytest.fixture
def copy(bench, tmp_path) -> Path:
    """A copy of the finished run's root that a test may damage, in the folder where commands work."""
    root = tmp_path / "here" / "root"
    for name in ("results", "leaderboards"):
        shutil.copytree(bench.root / name, root / name)
    return root
