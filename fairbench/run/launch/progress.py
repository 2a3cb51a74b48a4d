"""Progress of all runs in one view on stderr: live bars on a terminal, log lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

__all__ = ["Ahead", "LogLines", "ProgressView", "RunView", "Total", "duration", "progress_view"]

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_TOTALS = 30.0
TRUSTED = 0.1  # share of the work after which this session's speed replaces the estimate

# The remaining stages of a run and their estimated seconds, by the stage's name; None without an estimate.
Ahead = Mapping[str, float | None]


class RunView(Protocol):
    """The line of one run."""

    def update(self, stage: str, done: int, total: int, note: str) -> None:
        """Show the progress of a stage."""

    def say(self, text: str) -> None:
        """Write a line that remains."""

    def finish(self, outcome: str) -> None:
        """Show that the run has ended."""


class ProgressView(Protocol):
    """A view that runs report to; safe to call from several threads."""

    def start(self, name: str) -> RunView:
        """Add a line for a run."""

    def say(self, text: str) -> None:
        """Write a line that remains."""


class Total:
    """The progress of all runs together: the share of the estimated work that is done, and the seconds left.

    `ahead` holds the stages of every run by the run's name, a list because several runs may have one name. A run
    without an estimate counts as the mean of the others. `span` is the estimate of the whole in seconds, 0 without one.
    """

    def __init__(self, ahead: Mapping[str, Sequence[Ahead]], span: float = 0.0) -> None:
        self._waiting = {name: [dict(stages) for stages in runs] for name, runs in ahead.items()}
        known = [_seconds(stages) for runs in ahead.values() for stages in runs]
        sums = [seconds for seconds in known if seconds]
        self._each = sum(sums) / len(sums) if sums else 1.0
        self._whole = sum(seconds or self._each for seconds in known)
        self._span = span
        self._done: dict[int, float] = {}
        self._begin = time.monotonic()
        self._lock = threading.Lock()

    def join(self, name: str) -> tuple[int, dict[str, float]]:
        """Return a number for a starting run, and each of its stages' share of the run's work."""
        with self._lock:
            number = len(self._done)
            self._done[number] = 0.0
            runs = self._waiting.get(name)
            stages = runs.pop(0) if runs else {}
            seconds = _seconds(stages)
            if seconds:
                return number, {stage: (left or 0.0) / self._whole for stage, left in stages.items()}
            each = self._each / self._whole if self._whole and runs is not None else 0.0
            return number, {stage: each / len(stages) for stage in stages} if stages else {"": each}

    def reach(self, number: int, share: float) -> None:
        """Record the share of all work that a run has done."""
        with self._lock:
            self._done[number] = max(self._done[number], share)

    @property
    def share(self) -> float:
        """The share of the work that is done, 0 to 1."""
        return min(1.0, sum(self._done.values()))

    @property
    def left(self) -> float | None:
        """Seconds left: by the speed so far, at the start by the estimate; None without either."""
        elapsed, share = time.monotonic() - self._begin, self.share
        if share > 0.999 * TRUSTED:
            return elapsed * (1 - share) / share
        return self._span * (1 - share) if self._span else None

    def text(self) -> str:
        """The share and the time left as text."""
        left = self.left
        remains = "" if left is None or left < 0.5 else f", about {duration(left)} left"
        return f"{100 * self.share:.0f} %{remains}"


class _Part:
    """The part of one run in the total; stages before the current one count as done."""

    def __init__(self, total: Total | None, name: str) -> None:
        self._total = total
        self._number, self._shares = total.join(name) if total is not None else (0, {})

    def update(self, stage: str, done: int, total: int) -> None:
        if self._total is None or stage not in self._shares:
            return
        names = list(self._shares)
        before = sum(self._shares[name] for name in names[: names.index(stage)])
        self._total.reach(self._number, before + self._shares[stage] * done / max(total, 1))

    def finish(self) -> None:
        if self._total is not None:
            self._total.reach(self._number, sum(self._shares.values()))


@contextmanager
def progress_view(total: Total | None = None) -> Iterator[ProgressView]:
    """Yield bars when stderr is a terminal, log lines otherwise; a `total` is shown below the runs."""
    if not sys.stderr.isatty():
        yield LogLines(total)
        return
    columns = (
        TextColumn("{task.fields[run]}", style="bold", markup=False),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Bars(bars, total)


class _Bars:
    """A bar for each run that is not finished, and below them the bar of the total."""

    def __init__(self, bars: Progress, total: Total | None) -> None:
        self._bars = bars
        self._total = total
        self._whole = None if total is None else self._add("total", total.text())

    def _add(self, name: str, note: str = "") -> TaskID:
        return self._bars.add_task("", run=name, note=note, count="", total=1)

    def start(self, name: str) -> RunView:
        if self._whole is not None:  # keeps the total below the other bars
            self._bars.remove_task(self._whole)
        task = self._add(name)
        if self._total is not None:
            self._whole = self._add("total", self._total.text())
        return _Bar(self, task, _Part(self._total, name))

    def show(self, task: TaskID, stage: str, done: int, total: int, note: str) -> None:
        count = f"{done}/{total}"
        self._bars.update(task, description=stage, completed=done, total=total, note=note, count=count)
        if self._total is not None and self._whole is not None:
            self._bars.update(self._whole, completed=self._total.share, total=1, note=self._total.text())

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)


class _Bar:
    def __init__(self, bars: _Bars, task: TaskID, part: _Part) -> None:
        self._bars, self._task, self._part = bars, task, part

    def update(self, stage: str, done: int, total: int, note: str) -> None:
        self._part.update(stage, done, total)
        self._bars.show(self._task, stage, done, total, note)

    def say(self, text: str) -> None:
        self._bars.say(text)

    def finish(self, outcome: str) -> None:
        if outcome == "done":
            self._part.finish()
        self._bars.show(self._task, outcome, 1, 1, "")


class LogLines:
    """Progress as plain lines: each new stage, each stage's end, and one every few seconds in between.

    A line about the total comes twice a minute.
    """

    def __init__(self, total: Total | None = None) -> None:
        self._total = total
        self._last = time.monotonic()

    def start(self, name: str) -> RunView:
        """Return a line writer for a run."""
        return _Lines(name, _Part(self._total, name), self)

    def say(self, text: str) -> None:
        """Write a line."""
        print(text, file=sys.stderr, flush=True)

    def tick(self) -> None:
        """Write the line about the total if it is due."""
        now = time.monotonic()
        if self._total is not None and now - self._last >= SECONDS_BETWEEN_TOTALS:
            self._last = now
            print(f"total: {self._total.text()}", file=sys.stderr, flush=True)


class _Lines:
    def __init__(self, name: str, part: _Part, view: LogLines) -> None:
        self._name, self._part, self._view = name, part, view
        self._stage = ""
        self._last = 0.0
        self._begin = time.monotonic()

    def update(self, stage: str, done: int, total: int, note: str) -> None:
        self._part.update(stage, done, total)
        self._view.tick()
        now = time.monotonic()
        if stage == self._stage and done < total and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._stage, self._last = stage, now
        self._write(f"{stage} {done}/{total} {note}")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def finish(self, outcome: str) -> None:
        if outcome == "done":
            self._part.finish()
        self._write(outcome)

    def _write(self, text: str) -> None:
        seconds = time.monotonic() - self._begin
        print(f"{self._name}: {text.strip()} ({seconds:.0f} s)", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Format a time: in seconds below 90 s, in minutes below 90 min, in hours above."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _seconds(stages: Ahead) -> float | None:
    known = [seconds for seconds in stages.values() if seconds is not None]
    return sum(known) if stages and len(known) == len(stages) else None
