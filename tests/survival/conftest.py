"""A finished run to compare with, and children in which things go wrong for real."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fairbench.errors import FairbenchError
from fairbench.leaderboard import builder
from fairbench.run.pipeline import execute_run
from fairbench.run.plan import plan
from fairbench.suites.suite import load_suite

NOBODY = 65534


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Every test here runs as a worker does."""


@pytest.fixture(scope="session")
def whole(make_suite, tmp_path_factory) -> SimpleNamespace:
    """An undisturbed run of one method: its suite, specification, root folder and board."""
    root = tmp_path_factory.mktemp("whole")
    suite = make_suite(root / "suite", methods=["sat"])
    torch.set_num_threads(1)
    (spec,) = plan(load_suite(str(suite)))
    execute_run(spec, root / "results")
    (board,) = builder.build_boards(root / "results", root / "leaderboards", "tiny")
    return SimpleNamespace(suite=suite, spec=spec, root=root, board=board)


@pytest.fixture
def bits() -> Callable[[Path], dict[str, bytes]]:
    """Return `bits(root) -> content by relative path` of everything but run.json, the board and locks."""

    def read(root: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted((root / "results").rglob("*"))
            if path.is_file() and path.name != "run.json" and not path.name.startswith(".")
        }

    return read


@pytest.fixture
def child() -> Callable[..., tuple[str, str]]:
    """Return `child(work, limit=None, user=None) -> (kind, message)` of the error `work()` ends with in a child.

    `limit` is the largest file in bytes that it may write, `user` the number of who it runs as.
    """

    def run(work: Callable[[], Any], limit: int | None = None, user: int | None = None) -> tuple[str, str]:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.alarm(240)
            outcome = ("", "")
            try:
                if limit is not None:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                if user is not None:
                    os.setgid(user)
                    os.setuid(user)
                work()
            except FairbenchError as error:
                outcome = (type(error).__name__, str(error))
            except BaseException:
                outcome = ("crash", traceback.format_exc())
            os.write(write, pickle.dumps(outcome)[:60000])
            sys.stdout.flush()
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as answer:
            content = answer.read()
        os.waitpid(pid, 0)
        return pickle.loads(content)

    return run
