"""Results at a URL, `s3://bucket/dir` or whatever fsspec knows: a local folder is worked in, finished runs are copied.

A run is its `run.json`, which is written last and removed first, and whose checksums all its files must have: a copy
that was killed half-way is not read as a run. Boards are pure functions of the runs, so the last writer's will do.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fairbench.errors import FairbenchError, InvalidInput, Missing
from fairbench.results.address import public
from fairbench.results.folder import RunFolder
from fairbench.results.mirror import Mirror
from fairbench.suites.spec import RunSpec

__all__ = ["Mirror", "delivering", "fetch_results", "is_url", "pushing"]

SECONDS_BETWEEN_PUSHES = 10.0


def is_url(text: str | None) -> bool:
    """Whether a text names a place by URL, rather than a folder."""
    return text is not None and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def fetch_results(url: str) -> Path:
    """Copy what readers need of the runs and boards at a URL, all but weights, and return the local path it stands for.

    The URL is a folder that holds `results` or `leaderboards`, or something below one of these. Raises Missing where a
    package is not installed, FairbenchError when the place cannot be read.
    """
    root, slash, inner = _split(url)
    mirror = Mirror(root)
    mirror.pull()
    found = mirror.folder / f"{slash}{inner}".lstrip("/")
    if not found.exists() and inner:
        raise Missing(f"{public(url)}: there is no such file, nor a finished run")
    return found


@contextmanager
def pushing(url: str | None, specs: Sequence[RunSpec], *, weights: bool = True) -> Iterator[None]:
    """While a plan is executed in the local folder of a URL, copy each run there once it is finished, boards last.

    The weights of the plan's runs that are there already are fetched first, because others may build on them, but not
    where the work is done elsewhere. Nothing happens for None.
    """
    if url is None:
        yield
        return
    mirror, ended, failures = Mirror(url), threading.Event(), list[str]()
    runs = [spec.folder.as_posix() for spec in specs]
    mirror.pull(weights_of=runs if weights else ())
    mirror.set_damage_aside()
    mirror.push_runs()
    mirror.drop_lost(runs)

    def follow() -> None:
        while not ended.wait(SECONDS_BETWEEN_PUSHES):
            try:
                mirror.push_runs()
            except FairbenchError as error:  # it is tried again, and at the end in earnest
                if str(error) not in failures:
                    failures.append(str(error))
                    print(f"{error}; tried again", file=sys.stderr)

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    except BaseException:
        ended.set()
        follower.join()
        raise  # what is finished and not copied yet is, by the next command
    ended.set()
    follower.join()
    mirror.push_runs()
    mirror.push_boards()


@contextmanager
def delivering(url: str, spec: RunSpec, progress: Callable[[str, int, int, str], None]) -> Iterator[Path]:
    """Bring what a run builds on to this node of a cluster, yield the results folder to work in, and copy the run back.

    The folder is this node's own, `~/.cache/fairbench/mirrors` unless `$FAIRBENCH_MIRRORS` names another, and stays for
    the runs to come. Raises Missing where the weights that the run builds on are not at the URL, FairbenchError when
    that cannot be read or written; what has been finished here by then is copied when the run is tried again here.
    """
    mirror = Mirror(url, Path.home() / ".cache" / "fairbench" / "mirrors")
    progress("fetch", 0, 1, mirror.url)
    own = spec.folder.as_posix()
    needed = [given.folder.as_posix() for given in spec.prerequisites if isinstance(given, RunSpec)]
    mirror.pull(weights_of=[own, *needed], only=[own, *needed])
    mirror.set_damage_aside()
    results = mirror.folder / "results"
    for run in needed:
        if not RunFolder(results / run).best.exists():
            missing = f"{mirror.url}/results/{run}/best.safetensors"
            raise Missing(f"{missing}: is not there, or damaged; removing the run there has it made again")
    yield results
    progress("push", 0, 1, mirror.url)
    mirror.pull(weights_of=[own], only=[own])  # where another node was first, its copy stays
    mirror.push_run(own)


def _split(url: str) -> tuple[str, str, str]:
    """The root, `results/` or `leaderboards/`, and what is named below it; the last two empty for a root."""
    for name in ("results", "leaderboards"):
        root, slash, inner = url.rpartition(f"/{name}/")
        if slash:
            return root, slash, inner
    if url.endswith(".csv"):
        raise InvalidInput(f"{public(url)}: a board is read from the `leaderboards` beside its `results`")
    return url, "", ""
