"""Commands with a limit of time: started in a group of their own, interrupted, then killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

__all__ = ["Ended", "Run", "Stop", "run_command"]

GRACE = 20.0  # seconds between the interrupt and the kill
POLL = 0.5

State = Literal["done", "failed", "unfinished"]


@dataclass(frozen=True)
class Ended:
    """How a command ended: `unfinished` if it was interrupted, else by its exit code."""

    state: State
    code: int
    seconds: float


class Run(Protocol):
    """Runs a command to its end, or until `limit` seconds are over or `enough()` is true; its output goes to `log`."""

    def __call__(
        self,
        words: Sequence[str],
        log: Path,
        limit: float,
        *,
        cwd: Path | None = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> Ended: ...


class Stop:
    """Whether this process was asked to stop, by INT or TERM; what runs is then interrupted, and results are packed."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        """Note these signals from now on instead of ending by them."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(self, "asked", True))


def run_command(
    words: Sequence[str],
    log: Path,
    limit: float,
    *,
    cwd: Path | None = None,
    enough: Callable[[], bool] = lambda: False,
    stop: Stop | None = None,
    environment: Mapping[str, str] | None = None,
    grace: float = GRACE,
) -> Ended:
    """Run a command as `Run` says; after the interrupt it has `grace` seconds to store what it has."""
    start = time.monotonic()
    with log.open("ab") as output:
        given = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        process = subprocess.Popen(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=given,
            start_new_session=True,
        )
        cut = False
        while process.poll() is None and not cut:
            cut = time.monotonic() - start >= limit or (stop is not None and stop.asked) or enough()
            with suppress(subprocess.TimeoutExpired):
                process.wait(0 if cut else POLL)
        if cut:
            _end(process, grace)
    code = process.wait()
    state: State = "unfinished" if cut else "done" if code == 0 else "failed"
    return Ended(state, code, time.monotonic() - start)


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    """Interrupt a command and all that it started; kill what is left of its group after `grace` seconds."""
    for number, seconds in ((signal.SIGINT, grace), (signal.SIGKILL, 10.0)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            if number == signal.SIGINT:
                continue  # what the command left behind is killed
