"""Run a plan on this machine: one process per run, teachers before their students, `jobs` at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from fairbench.errors import FairbenchError
from fairbench.run.launch.mps import shared_gpu
from fairbench.run.launch.process import Crew, work
from fairbench.run.launch.progress import ProgressView
from fairbench.run.launch.queue import RunQueue
from fairbench.suites.spec import RunSpec

__all__ = ["launch_local"]


def launch_local(specs: Sequence[RunSpec], results: Path, *, jobs: int, view: ProgressView) -> None:
    """Bring every run to completion, side by side if they do not depend on one another.

    A failed run does not stop those that do not need it; the first failure is raised when the rest is done. On an
    interrupt the running processes are told to stop; what they have stored remains. Processes that use one GPU share it
    by `shared_gpu`.
    """
    queue = RunQueue(specs)
    running: dict[Future[None], RunSpec] = {}
    crew = Crew()
    with shared_gpu(specs, jobs, view.say) as settings, ThreadPoolExecutor(max_workers=jobs) as pool:
        try:
            while queue or running:
                for spec in queue.ready()[: jobs - len(running)]:
                    queue.take(spec)
                    running[pool.submit(_work, spec, results, view, crew, settings, jobs)] = spec
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    spec = running.pop(future)
                    error = future.exception()
                    if error is not None and not isinstance(error, FairbenchError):
                        raise error
                    queue.finish(spec, error)
        except BaseException:
            crew.stop()
            raise
    queue.raise_failure()


def _work(spec: RunSpec, results: Path, view: ProgressView, crew: Crew, settings: Mapping[str, str], jobs: int) -> None:
    work(spec, results, view.start(spec.title), crew, settings=settings, jobs=jobs)
