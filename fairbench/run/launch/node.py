"""One run on a node of a cluster, in a worker process; its events go to the launcher's node."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from fairbench.errors import FairbenchError, Missing
from fairbench.results import remote
from fairbench.run.launch.process import Crew, work
from fairbench.run.launch.progress import RunView
from fairbench.suites.spec import RunSpec

__all__ = ["run_order"]

SECONDS_BETWEEN_EVENTS = 0.5


def run_order(order: dict[str, Any], events: Any) -> tuple[int, str]:
    """Execute a launcher's order and return the exit code and the error message.

    The run is written to the results folder, or delivered at the URL, that the order names. `events` is the actor on
    the launcher's node that receives the progress.
    """
    spec, url = RunSpec.model_validate(order["spec"]), order["url"]
    name = f"{spec.title}: "
    os.environ.update(order["environment"])
    row: RunView = _Report(events, tuple(order["attempt"]))
    try:
        _enter(Path(order["folder"]), _relative_files(spec), needed=not url)
        with remote.delivering(url, spec, row.update) if url else nullcontext(Path(order["results"])) as results:
            work(spec, results, row, Crew())
    except FairbenchError as error:
        return error.exit_code, f"{name}{str(error).removeprefix(name)}"
    return 0, ""


def _enter(folder: Path, relative: Sequence[str], *, needed: bool) -> None:
    """Change to the launcher's working directory if this node has it; raises Missing if the run needs it."""
    node = os.uname().nodename
    if folder.is_dir():
        os.chdir(folder)
    elif needed:
        raise Missing(f"{folder} is not on node {node}")
    elif relative:
        raise Missing(f"{relative[0]} is relative to {folder}, which is not on node {node}: give absolute paths")


def _relative_files(spec: RunSpec) -> list[str]:
    """The files and folders that a run refers to by paths relative to the working directory."""
    kind, _, rest = spec.data.name.partition(":")
    named = {"npz": rest.split(","), "folder": [rest]}.get(kind, [])
    checkpoints = [place for place in (spec.checkpoint, *spec.prerequisites) if isinstance(place, str)]
    named += [place.rpartition("#")[0].removeprefix("file:") for place in checkpoints]
    return [path for path in named if not Path(path).is_absolute()]


class _Report:
    """The row of a run on its node: it passes on a stage's first and last event, and a few a second in between."""

    def __init__(self, events: Any, attempt: Any) -> None:
        self._events, self._attempt = events, attempt
        self._stage, self._last = "", 0.0

    def update(self, stage: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if stage != self._stage or done >= total or now - self._last >= SECONDS_BETWEEN_EVENTS:
            self._stage, self._last = stage, now
            self._events.update.remote(self._attempt, (stage, done, total, note))

    def say(self, text: str) -> None:
        self._events.say.remote(self._attempt, text)

    def finish(self, outcome: str) -> None:
        """Do nothing: the launcher notices the end by itself."""
