"""Which runs of a plan may start: those whose prerequisites are done. A failed prerequisite fails its students."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fairbench.errors import FairbenchError
from fairbench.suites.spec import RunSpec

__all__ = ["RunQueue"]


class RunQueue:
    """The runs of a plan on their way from waiting to done or failed, for any launcher.

    A failed run does not stop those that do not need it; prerequisites outside the plan count as done.
    """

    def __init__(self, specs: Sequence[RunSpec]) -> None:
        self._waiting = {spec.folder: spec for spec in specs}
        self._unfinished = set(self._waiting)
        self._failed: dict[Path, FairbenchError] = {}
        self._planned = len(self._waiting)

    def __bool__(self) -> bool:
        """Whether any run has not been started."""
        return bool(self._waiting)

    def ready(self) -> list[RunSpec]:
        """Runs that may start; a run whose prerequisite failed is marked as failed."""
        ready = []
        for spec in list(self._waiting.values()):
            needed = {run.folder for run in spec.prerequisites if isinstance(run, RunSpec)}
            broken = needed & self._failed.keys()
            if broken:
                self._failed[spec.folder] = self._failed[broken.pop()]
                del self._waiting[spec.folder]
            elif not needed & self._unfinished:
                ready.append(spec)
        return ready

    def take(self, spec: RunSpec) -> None:
        """Mark a run as started."""
        del self._waiting[spec.folder]

    def finish(self, spec: RunSpec, error: FairbenchError | None = None) -> None:
        """Mark a run as done, or as failed."""
        if error is None:
            self._unfinished.discard(spec.folder)
        else:
            self._failed[spec.folder] = error

    def raise_failure(self) -> None:
        """Raise the first failure, if there was one, with the number of runs that failed."""
        if self._failed:
            first = next(iter(self._failed.values()))
            raise type(first)(f"{first} ({len(self._failed)} of {self._planned} runs failed)")
