"""Run a plan on this machine: a process per run, teachers before their students, `jobs` at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import IO

from fairbench.config import RunSpec
from fairbench.errors import FairbenchError, Interrupted
from fairbench.launch.progress import ProgressView, RunView

__all__ = ["launch"]

GRACE_SECONDS = 3.0


def launch(specs: Sequence[RunSpec], results: Path, *, jobs: int, view: ProgressView) -> None:
    """Bring every run to completion, side by side where they don't depend on one another.

    A failed run does not stop those that do not need it; the first failure is raised when the rest is done. On an
    interrupt the running processes are told to stop, and keep what they have.
    """
    waiting = {spec.folder: spec for spec in specs}
    planned = set(waiting)
    failed: dict[Path, FairbenchError] = {}
    done: set[Path] = set()
    running: dict[Future[None], RunSpec] = {}
    crew = _Crew()
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        try:
            while waiting or running:
                for spec in _ready(waiting, planned - done, failed):
                    if len(running) < jobs:
                        del waiting[spec.folder]
                        running[pool.submit(_work, spec, results, view, crew)] = spec
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    spec = running.pop(future)
                    error = future.exception()
                    if error is None:
                        done.add(spec.folder)
                    elif isinstance(error, FairbenchError):
                        failed[spec.folder] = error
                    else:
                        raise error
        except BaseException:
            crew.stop()
            raise
    if failed:
        first = next(iter(failed.values()))
        raise type(first)(f"{first} ({len(failed)} of {len(planned)} runs failed)")


class _Crew:
    """The running worker processes; once they are told to stop, so is any that a thread was about to start."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[str]] = set()
        self._stopping = threading.Event()

    def join(self, process: subprocess.Popen[str]) -> None:
        self._processes.add(process)
        if self._stopping.is_set():
            process.terminate()

    def leave(self, process: subprocess.Popen[str]) -> None:
        self._processes.discard(process)

    def stop(self) -> None:
        """Ask every process to end, and kill those that do not: what is on the disk is whole at any moment."""
        self._stopping.set()
        _end(list(self._processes))


def _end(processes: Iterable[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def _ready(waiting: dict[Path, RunSpec], unfinished: set[Path], failed: dict[Path, FairbenchError]) -> list[RunSpec]:
    """Runs whose prerequisites are done or not part of the plan; those whose prerequisite failed fail with it."""
    ready = []
    for spec in list(waiting.values()):
        needed = {given.folder for given in spec.prerequisites if isinstance(given, RunSpec)}
        broken = needed & failed.keys()
        if broken:
            failed[spec.folder] = failed[broken.pop()]
            del waiting[spec.folder]
        elif not needed & unfinished:
            ready.append(spec)
    return ready


def _work(spec: RunSpec, results: Path, view: ProgressView, crew: _Crew) -> None:
    row = view.start(f"{spec.label} seed {spec.seed}")
    threads = str(spec.environment.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    with (
        tempfile.TemporaryFile("w+", errors="replace") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "fairbench.launch.worker"],
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
        row.finish({0: "done", Interrupted.exit_code: "stopped"}.get(code, "failed"))
        if code == Interrupted.exit_code:
            raise Interrupted(f"{spec.label} seed {spec.seed}: interrupted")
        if code:
            raise FairbenchError(f"{spec.label} seed {spec.seed}: {message or _last_words(errors, code)}")


def _hand_over(process: subprocess.Popen[str], spec: RunSpec, results: Path) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as task:  # a worker that died at once says so by its exit code
        task.write(json.dumps({"spec": spec.model_dump(mode="json"), "results": str(results)}))


def _follow(process: subprocess.Popen[str], row: RunView) -> str:
    """Show a worker's events until there are no more, and return its error message, if it had one."""
    message = ""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress":
            row.update(event["stage"], event["done"], event["total"], event["note"])
        else:
            message = event["message"]
    return message


def _last_words(errors: IO[str], code: int) -> str:
    errors.seek(0)
    lines = [line.strip() for line in errors if line.strip()]
    end = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"the process {end}" + (f": {lines[-1]}" if lines else "")
