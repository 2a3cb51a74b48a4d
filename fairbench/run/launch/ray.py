"""Run a plan on a Ray cluster; runs whose node died are tried on another node.

Every node needs this environment. If results are in a folder, it and the working directory must have the same paths on
every node. A run writes there as on one machine, each file whole or not at all, so that another node resumes it at its
last finished epoch. If results are at a URL, nodes share nothing else: each works in a folder of its own, and copies a
run to the URL before it counts as finished.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fairbench.errors import FairbenchError, Interrupted, InvalidInput, Missing
from fairbench.results import remote
from fairbench.results.address import public, redacted
from fairbench.results.folder import RunFolder
from fairbench.run.launch import node
from fairbench.run.launch.progress import ProgressView
from fairbench.run.launch.queue import RunQueue
from fairbench.suites.spec import RunSpec

__all__ = ["launch_ray"]

ATTEMPTS = 3
SECONDS_BETWEEN_LOOKS = 0.3
SETTING = re.compile(r"FAIRBENCH_(?!MIRRORS$).*")  # each node decides where it keeps its copies


def launch_ray(
    specs: Sequence[RunSpec],
    results: Path,
    *,
    address: str | None,
    jobs: int | None,
    view: ProgressView,
    url: str | None = None,
) -> None:
    """Bring every run to completion on the cluster at `address` (by default the one this machine belongs to).

    A run requests as many CPUs as it has threads, and one GPU if it uses one. If its node dies it is tried again, three
    times in all. If `results` mirrors a `url`, nodes copy what they finish there, and it is fetched without its
    weights. Raises Missing without ray or a cluster, InvalidInput if no node is large enough, and what the local
    launcher raises for failed and interrupted runs.
    """
    ray = _imported()
    queue, place = RunQueue(specs), _Place(results, url)
    with _connected(ray, address):
        events = _here(ray).remote()
        task = ray.remote(max_retries=0)(node.run_order)
        running: dict[Any, _Attempt] = {}
        again: list[_Attempt] = []
        try:
            while queue or running or again:
                room = len(specs) if jobs is None else jobs - len(running)
                fresh = queue.ready()[: max(0, room - len(again))]
                for spec in fresh:
                    queue.take(spec)
                for attempt in [*again, *(_Attempt(spec, view) for spec in fresh)]:
                    running[attempt.submit(ray, task, place, events)] = attempt
                again = []
                finished, _ = ray.wait(list(running), timeout=SECONDS_BETWEEN_LOOKS) if running else ([], [])
                _show(ray.get(events.drain.remote()), running)
                for reference in finished:
                    attempt = running.pop(reference)
                    lost = attempt.settle(ray, reference, queue, place)
                    if lost:
                        again.append(attempt)
        except BaseException as error:
            for reference in running:
                ray.cancel(reference, force=True)  # ends the worker process too
            if isinstance(error, SystemError) and error.__cause__ is not None:
                raise error.__cause__ from None  # an interrupt, wrapped by Ray's compiled code
            raise
    queue.raise_failure()


def _imported() -> Any:
    """The package ray; raises Missing without it."""
    try:
        import ray
    except ImportError:
        raise Missing("the ray launcher needs ray: pip install 'robust-fairbench[ray]'") from None
    return ray


class _Place:
    """Where finished runs must arrive: in a folder that all nodes share, or at a URL that a local folder mirrors."""

    def __init__(self, results: Path, url: str | None) -> None:
        self.results, self.url = results.resolve(), url
        self._mirror = remote.Mirror(url) if url else None

    def lacks(self, spec: RunSpec) -> str:
        """Fetch a finished run if results are at a URL; return why it is missing here, or an empty text."""
        if self._mirror is None:
            found = RunFolder(self.results / spec.folder).run.exists()
            return "" if found else f"finished, but not in {self.results}: every node must see that folder"
        try:
            found = self._mirror.pull_run(spec.folder.as_posix())
        except FairbenchError as error:
            return f"finished, but {error}"
        return "" if found else f"finished, but not at {public(self.url or '')}: every node must reach that place"


class _Attempt:
    """A run on the cluster, its row in the view, and the number of its attempts."""

    def __init__(self, spec: RunSpec, view: ProgressView) -> None:
        self.spec = spec
        self.name = spec.title
        self.row = view.start(self.name)
        self.tried = 0

    def submit(self, ray: Any, task: Any, place: _Place, events: Any) -> Any:
        """Submit the run to the cluster and return the reference to its outcome."""
        self.tried += 1
        needs = {"num_cpus": self.spec.environment.threads, "num_gpus": int(self.spec.environment.device == "cuda")}
        if not any(_fits(node, needs) for node in ray.nodes()):
            wanted = f"{needs['num_cpus']} CPUs" + (" and a GPU" if needs["num_gpus"] else "")
            raise InvalidInput(f"{self.name}: no node of the Ray cluster has {wanted}")
        self.row.update("waiting for a node", 0, 1, "")
        order = {
            "spec": self.spec.model_dump(mode="json"),
            "results": str(place.results),
            "url": place.url,
            "folder": str(Path.cwd()),
            "environment": {name: os.environ[name] for name in os.environ if SETTING.fullmatch(name)},
            "attempt": (str(self.spec.folder), self.tried),
        }
        return task.options(**needs).remote(order, events)

    def settle(self, ray: Any, reference: Any, queue: RunQueue, place: _Place) -> bool:
        """Record the outcome in the queue; True if the node died without one and the run may be tried again."""
        try:
            code, message = ray.get(reference)
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            reason = type(error).__name__
            if self.tried < ATTEMPTS:
                self.row.say(f"{self.name}: its node died ({reason}); attempt {self.tried + 1} of {ATTEMPTS}")
                return True
            code, message = FairbenchError.exit_code, f"{self.name}: its node died {self.tried} times ({reason})"
        if code == Interrupted.exit_code:
            raise Interrupted(message)
        lacks = "" if code else place.lacks(self.spec)
        if lacks:
            code, message = FairbenchError.exit_code, f"{self.name}: {lacks}"
        self.row.finish("failed" if code else "done")
        queue.finish(self.spec, FairbenchError(message) if code else None)
        return False


class _Events:
    """The events of runs, kept on the launcher's node until they are shown; of each stage of a run only the newest."""

    def __init__(self) -> None:
        self._said: list[tuple[Any, str]] = []
        self._progress: dict[tuple[Any, str], tuple[str, int, int, str]] = {}

    def update(self, attempt: Any, event: tuple[str, int, int, str]) -> None:
        self._progress[attempt, event[0]] = event

    def say(self, attempt: Any, text: str) -> None:
        self._said.append((attempt, text))

    def drain(self) -> tuple[list[tuple[Any, str]], dict[tuple[Any, str], tuple[str, int, int, str]]]:
        said, progress = self._said, self._progress
        self._said, self._progress = [], {}
        return said, progress


def _show(drained: tuple[list[tuple[Any, str]], dict[Any, Any]], running: dict[Any, _Attempt]) -> None:
    """Show the events of runs in their rows; an attempt that was abandoned has none."""
    rows = {(str(attempt.spec.folder), attempt.tried): attempt.row for attempt in running.values()}
    said, progress = drained
    for attempt, text in said:
        if attempt in rows:
            rows[attempt].say(text)
    for (attempt, _), event in progress.items():
        if attempt in rows:
            rows[attempt].update(*event)


def _here(ray: Any) -> Any:
    """The actor class of events, placed on this node, so that they outlive every other node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=node)(_Events)


def _fits(node: dict[str, Any], needs: dict[str, int]) -> bool:
    has = node["Resources"]
    return bool(node["Alive"] and has.get("CPU", 0) >= needs["num_cpus"] and has.get("GPU", 0) >= needs["num_gpus"])


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to the cluster as a client, keep this process's signal handlers, and silence Ray's messages."""
    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # ConnectionError, ValueError or Ray's own types, depending on the wrong address
        reason = redacted(" ".join(str(error).split()), address or "")[:200]
        where = f"no Ray cluster at {public(address)}" if address else "this machine belongs to no Ray cluster"
        raise Missing(f"{where}; `ray start --head` starts one ({reason})") from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()
