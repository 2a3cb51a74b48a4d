"""A worker process on the launcher's side: started with a task, followed to its end, stopped with the others."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO

from fairbench.errors import FairbenchError, Interrupted
from fairbench.run.launch.progress import RunView
from fairbench.run.launch.variables import worker_variables
from fairbench.suites.spec import RunSpec

__all__ = ["Crew", "work"]

GRACE_SECONDS = 3.0
EMPTY: Mapping[str, str] = MappingProxyType({})


class Crew:
    """The running worker processes. A process that joins after `stop` is terminated at once."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[str]] = set()
        self._stopping = threading.Event()

    def join(self, process: subprocess.Popen[str]) -> None:
        """Add a process that has just been started."""
        self._processes.add(process)
        if self._stopping.is_set():
            process.terminate()

    def leave(self, process: subprocess.Popen[str]) -> None:
        """Forget a process that has ended."""
        self._processes.discard(process)

    @property
    def stopping(self) -> bool:
        """Whether the processes were told to stop."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Terminate every process, and kill those that do not end in time; files on disk remain whole."""
        self._stopping.set()
        _end(list(self._processes))


def work(
    spec: RunSpec, results: Path, row: RunView, crew: Crew, *, settings: Mapping[str, str] = EMPTY, jobs: int = 1
) -> None:
    """Execute a run in a process of its own, in the working directory, and show its progress in `row`.

    It is one of `jobs` processes, and gets the environment variables of `settings` besides `worker_variables`. Raises
    FairbenchError with the worker's error message if it fails, Interrupted if it was told to stop.
    """
    environment = {**worker_variables(spec.environment.threads, jobs), **settings}
    with (
        tempfile.TemporaryFile("w+", errors="replace") as errors,
        subprocess.Popen(
            # -P keeps the working directory, which may hold a stranger's modules, off the import path.
            [sys.executable, "-P", "-m", "fairbench.run.launch.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            start_new_session=True,
        ) as process,
    ):
        crew.join(process)
        try:
            _hand_over(process, spec, results)
            message = _follow(process, row)
            code = process.wait()
        finally:
            crew.leave(process)
        stopped = code == Interrupted.exit_code or (code != 0 and crew.stopping)
        row.finish("stopped" if stopped else "failed" if code else "done")
        if stopped:
            raise Interrupted(f"{spec.title}: stopped")
        if code:
            raise FairbenchError(f"{spec.title}: {message or _last_words(errors, code)}")


def _end(processes: Iterable[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def _hand_over(process: subprocess.Popen[str], spec: RunSpec, results: Path) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as task:  # the exit code reports a worker that died at once
        task.write(json.dumps({"spec": spec.model_dump(mode="json"), "results": str(results)}))


def _follow(process: subprocess.Popen[str], row: RunView) -> str:
    """Show a worker's events until it closes its output; return its error message, or an empty text."""
    message = ""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress":
            row.update(event["stage"], event["done"], event["total"], event["note"])
        elif event["event"] == "notice":
            row.say(event["text"])
        else:
            message = event["message"]
    return message


def _last_words(errors: IO[str], code: int) -> str:
    errors.seek(0)
    lines = [line.strip() for line in errors if line.strip()]
    end = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"the process {end}" + (f": {lines[-1]}" if lines else "")
