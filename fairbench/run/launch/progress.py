"""Progress of all runs in one view on stderr: live bars on a terminal, log lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["LogLines", "ProgressView", "RunView", "progress_view"]

SECONDS_BETWEEN_LINES = 5.0


class RunView(Protocol):
    """One run's line."""

    def update(self, stage: str, done: int, total: int, note: str) -> None:
        """Show how far a stage is."""

    def say(self, text: str) -> None:
        """Write a line that stays."""

    def finish(self, outcome: str) -> None:
        """Show that nothing more will come."""


class ProgressView(Protocol):
    """A view that runs report to; safe to call from several threads."""

    def start(self, name: str) -> RunView:
        """Add a line for a run."""


@contextmanager
def progress_view() -> Iterator[ProgressView]:
    """Yield bars when stderr is a terminal, log lines otherwise."""
    if not sys.stderr.isatty():
        yield LogLines()
        return
    columns = (
        TextColumn("{task.fields[run]}", style="bold", markup=False),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Bars(bars)


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    def start(self, name: str) -> RunView:
        return _Bar(self._bars, name)


class _Bar:
    def __init__(self, bars: Progress, name: str) -> None:
        self._bars = bars
        self._task = bars.add_task("start", run=name, note="", total=1)

    def update(self, stage: str, done: int, total: int, note: str) -> None:
        self._bars.update(self._task, description=stage, completed=done, total=total, note=note)

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)

    def finish(self, outcome: str) -> None:
        self._bars.update(self._task, description=outcome, completed=1, total=1, note="")


class LogLines:
    """Progress as plain lines: each new stage, each stage's end, and in between one every few seconds."""

    def start(self, name: str) -> RunView:
        """Return a line writer for a run."""
        return _Lines(name)


class _Lines:
    def __init__(self, name: str) -> None:
        self._name = name
        self._stage = ""
        self._last = 0.0
        self._begin = time.monotonic()

    def update(self, stage: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if stage == self._stage and done < total and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._stage, self._last = stage, now
        self._write(f"{stage} {done}/{total} {note}")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def finish(self, outcome: str) -> None:
        self._write(outcome)

    def _write(self, text: str) -> None:
        seconds = time.monotonic() - self._begin
        print(f"{self._name}: {text.strip()} ({seconds:.0f} s)", file=sys.stderr, flush=True)
