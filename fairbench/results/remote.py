"""Results at a URL, `s3://bucket/dir` or any other that fsspec supports: work is local, finished runs are copied.

A run counts if its `run.json`, which is written last and removed first, matches the checksums of all its files: a copy
that was killed half-way is not read as a run. Leaderboards are pure functions of the runs, so the last writer wins.
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

__all__ = ["Mirror", "delivering", "fetch_results", "fetch_root", "is_url", "pushing"]

SECONDS_BETWEEN_PUSHES = 10.0


def is_url(text: str | None) -> bool:
    """Whether a text is a URL and not a folder."""
    return text is not None and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def fetch_results(url: str) -> Path:
    """Copy the runs and leaderboards at a URL without their weights, and return the local path that mirrors the URL.

    The URL is a folder that holds `results` or `leaderboards`, or a path below one of these. Raises Missing if there is
    no such path or a package is not installed, InvalidInput for a CSV elsewhere, and FairbenchError if the URL cannot
    be read.
    """
    splits = _splits(url)
    for root, below in splits:
        found = fetch_root(root) / below
        if found.exists():
            return found
    whole = None if splits and url.endswith(".csv") else fetch_root(url)
    if whole is None or (splits and not _is_root(whole)):
        raise Missing(f"{public(url)}: there is no such file, nor a finished run")
    return whole


def fetch_root(url: str) -> Path:
    """Copy the runs and leaderboards below a URL without their weights, and return the local folder that mirrors it.

    Whatever the URL is named, the folder is that of `pushing`. Raises InvalidInput for a CSV, Missing if a package is
    not installed, and FairbenchError if the URL cannot be read.
    """
    if url.endswith(".csv"):
        raise InvalidInput(f"{public(url)}: a board is read from the `leaderboards` beside its `results`")
    mirror = Mirror(url)
    mirror.pull()
    return mirror.folder


@contextmanager
def pushing(url: str | None, specs: Sequence[RunSpec], *, weights: bool = True) -> Iterator[None]:
    """While a plan runs in the local folder of a URL, copy each finished run to the URL, and leaderboards last.

    The weights of the plan's runs that exist at the URL are fetched first, because other runs may need them, unless the
    work is done on other machines. Nothing happens for None.
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
            except FairbenchError as error:  # the next round tries again; the last push raises its errors
                if str(error) not in failures:
                    failures.append(str(error))
                    print(f"{error}; fairbench tries again", file=sys.stderr)

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    except BaseException:
        ended.set()
        follower.join()
        raise  # the next command copies finished runs that are not at the URL yet
    ended.set()
    follower.join()
    mirror.push_runs()
    mirror.push_boards()


@contextmanager
def delivering(url: str, spec: RunSpec, progress: Callable[[str, int, int, str], None]) -> Iterator[Path]:
    """Fetch the inputs of a run to this node of a cluster, yield the results folder to work in, and copy the run back.

    The folder belongs to this node, `~/.cache/fairbench/mirrors` unless `$FAIRBENCH_MIRRORS` names another, and is kept
    for later runs. Raises Missing if the weights that the run needs are not at the URL, and FairbenchError if the URL
    cannot be read or written; the next attempt on this node then copies a finished run.
    """
    mirror = Mirror(url, Path.home() / ".cache" / "fairbench" / "mirrors")
    progress("fetch", 0, 1, mirror.url)
    own = spec.folder.as_posix()
    needed = [run.folder.as_posix() for run in spec.prerequisites if isinstance(run, RunSpec)]
    mirror.pull(weights_of=[own, *needed], only=[own, *needed])
    mirror.set_damage_aside()
    results = mirror.folder / "results"
    for run in needed:
        if not RunFolder(results / run).best.exists():
            missing = f"{mirror.url}/results/{run}/best.safetensors"
            raise Missing(f"{missing}: missing or damaged; remove the run there to train it again")
    yield results
    progress("push", 0, 1, mirror.url)
    mirror.pull(weights_of=[own], only=[own])  # if another node was first, its copy stays
    mirror.push_run(own)


def _splits(url: str) -> list[tuple[str, str]]:
    """Return the roots that a URL may lie below, the nearest first, each with the path below it.

    A root, a suite or a bucket may be named `results` too; a store itself is no root.
    """
    places = [match.start() for match in re.finditer("/(?=(results|leaderboards)/)", url)]
    return [(url[:place], url[place + 1 :]) for place in reversed(places) if url[place - 1] != "/"]


def _is_root(folder: Path) -> bool:
    """Whether a folder holds runs or leaderboards."""
    return any((folder / name).is_dir() for name in ("results", "leaderboards"))
