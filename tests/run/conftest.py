"""Runs in this process, which the tests of this folder and of its sub-folders count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fairbench.run import benchmark
from fairbench.run.pipeline import execute_run
from fairbench.suites.spec import RunSpec


@pytest.fixture
def launched(one_thread, monkeypatch: pytest.MonkeyPatch) -> list[RunSpec]:
    """The launcher executes runs in this process, with one thread; the list of these runs."""
    done: list[RunSpec] = []

    def launch(specs: list[RunSpec], results: Path, **_: Any) -> None:
        for spec in specs:
            execute_run(spec, results)
            done.append(spec)

    monkeypatch.setattr(benchmark, "launch_local", launch)
    return done
