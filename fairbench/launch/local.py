"""Run a plan on this machine: a process per run, teachers before their students, `jobs` at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO

from fairbench.config import RunSpec
from fairbench.errors import FairbenchError, Interrupted
from fairbench.launch.progress import ProgressView

__all__ = ["launch"]


def launch(specs: Sequence[RunSpec], results: Path, *, jobs: int, view: ProgressView) -> None:
    """Bring every run to completion, side by side where they don't depend on one another.

    A failed run does not stop those that do not need it; the first failure is raised when the rest is done. On an
    interrupt the running processes are told to stop, and keep what they have.
    """
    waiting = {spec.run_id: spec for spec in specs}
    planned = set(waiting)
    failed: dict[str, FairbenchError] = {}
    done: set[str] = set()
    running: dict[Future[None], RunSpec] = {}
    processes: dict[str, subprocess.Popen[str]] = {}
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        try:
            while waiting or running:
                for spec in _ready(waiting, planned - done, failed):
                    if len(running) < jobs:
                        del waiting[spec.run_id]
                        running[pool.submit(_work, spec, results, view, processes)] = spec
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    spec = running.pop(future)
                    error = future.exception()
                    if error is None:
                        done.add(spec.run_id)
                    elif isinstance(error, FairbenchError):
                        failed[spec.run_id] = error
                    else:
                        raise error
        except BaseException:
            for process in list(processes.values()):
                process.terminate()
            raise
    if failed:
        first = next(iter(failed.values()))
        raise type(first)(f"{first} ({len(failed)} of {len(planned)} runs failed)")


def _ready(waiting: dict[str, RunSpec], unfinished: set[str], failed: dict[str, FairbenchError]) -> list[RunSpec]:
    """Runs whose prerequisites are done or not part of the plan; those whose prerequisite failed fail with it."""
    ready = []
    for spec in list(waiting.values()):
        needed = {given.run_id for given in spec.prerequisites if isinstance(given, RunSpec)}
        broken = needed & failed.keys()
        if broken:
            failed[spec.run_id] = failed[broken.pop()]
            del waiting[spec.run_id]
        elif not needed & unfinished:
            ready.append(spec)
    return ready


def _work(spec: RunSpec, results: Path, view: ProgressView, processes: dict[str, subprocess.Popen[str]]) -> None:
    row = view.start(f"{spec.label} seed {spec.seed}")
    threads = str(spec.environment.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "fairbench.launch.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            start_new_session=True,
        )
        processes[spec.run_id] = process
        try:
            _hand_over(process, spec, results)
            message = ""
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "progress":
                    row.update(event["stage"], event["done"], event["total"], event["note"])
                else:
                    message = event["message"]
            code = process.wait()
        finally:
            del processes[spec.run_id]
        row.finish("done" if code == 0 else "failed")
        if code == 130:
            raise Interrupted(f"{spec.label} seed {spec.seed}: interrupted")
        if code:
            raise FairbenchError(f"{spec.label} seed {spec.seed}: {message or _last_words(errors, code)}")


def _hand_over(process: subprocess.Popen[str], spec: RunSpec, results: Path) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps({"spec": spec.model_dump(mode="json"), "results": str(results)}))
        process.stdin.close()
    except BrokenPipeError:
        return  # it died at once; its exit code says so


def _last_words(errors: IO[str], code: int) -> str:
    errors.seek(0)
    lines = [line.strip() for line in errors if line.strip()]
    reason = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"the process ended with {reason}" + (f": {lines[-1]}" if lines else "")
