"""Results at a URL, `s3://bucket/dir` or whatever fsspec knows: a local folder is worked in, finished runs are copied.

A run is its `run.json`, which is written last and removed first, and whose checksums all its files must have: a copy
that was killed half-way is not read as a run. Boards are pure functions of the runs, so the last writer's will do.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from fairbench.config import RunSpec
from fairbench.errors import CorruptFile, FairbenchError, InvalidInput, Missing
from fairbench.files import atomic, locked
from fairbench.results import RunFolder
from fairbench.run_record import check_record, unseal

__all__ = ["Mirror", "fetch", "is_url", "pushing"]

MIRRORS = Path("fairbench-out") / "mirrors"
SECONDS_BETWEEN_PUSHES = 10.0
WEIGHTS = ("best.safetensors", "last.safetensors")
FILES = ("verdicts.npz", "history.csv", *WEIGHTS)
RUN = re.compile(r"results/([^/]+/[^/]+/[^/]+)/run\.json")
BOARD = re.compile(r"leaderboards/[^/]+/v[^/]+\.csv")


def is_url(text: str | None) -> bool:
    """Whether a text names a place by URL, rather than a folder."""
    return text is not None and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def fetch(url: str) -> Path:
    """Copy what readers need of the runs and boards at a URL, all but weights, and return the local path it stands for.

    The URL is a folder that holds `results` or `leaderboards`, or something below one of these. Raises Missing where a
    package is not installed, FairbenchError when the place cannot be read.
    """
    root, slash, inner = _split(url)
    mirror = Mirror(root)
    mirror.pull()
    found = mirror.folder / f"{slash}{inner}".lstrip("/")
    if not found.exists() and inner:
        raise Missing(f"{url}: there is no such file, nor a finished run")
    return found


@contextmanager
def pushing(url: str | None, specs: Sequence[RunSpec]) -> Iterator[None]:
    """While a plan is executed in the local folder of a URL, copy each run there once it is finished, boards last.

    The weights of the plan's runs that are there already are fetched first, because others may build on them. Nothing
    happens for None or what is no URL.
    """
    if url is None or not is_url(url):
        yield
        return
    mirror, ended, failures = Mirror(url), threading.Event(), list[str]()
    mirror.pull(weights_of=[str(spec.folder) for spec in specs])
    mirror.set_damage_aside()
    mirror.push_runs()

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


class Mirror:
    """The local folder that stands for a URL, and copies between them; `folder` has `results` and `leaderboards`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        readable = re.sub(r"[^A-Za-z0-9]+", "-", self.url).strip("-")[:60]
        self.folder = MIRRORS / f"{readable}-{sha256(self.url.encode()).hexdigest()[:8]}"
        self._there: dict[str, bytes] = {}
        self._damaged: list[str] = []
        with self._speaking():
            from fsspec.core import url_to_fs

            self._system, base = url_to_fs(self.url)
        self._base = str(base).rstrip("/")

    def pull(self, weights_of: Collection[str] = ()) -> None:
        """Bring the finished runs and the boards here, the weights only of the runs named, `suite/method/run_id`.

        A run that is finished here too is replaced where the one there has all its evaluations. One that is damaged
        there is named on stderr and left out.
        """
        with locked(self.folder / "pull"):
            with self._speaking():
                self._system.invalidate_cache()
                listed = [path.removeprefix(self._base).lstrip("/") for path in self._system.find(self._base)]
                names = set(listed)
                records = self._read([name for name in listed if RUN.fullmatch(name)])
            self._there, self._damaged = {}, []
            for name, content in records.items():
                run = name.removeprefix("results/").removesuffix("/run.json")
                wanted = [file for file in FILES if file not in WEIGHTS or run in weights_of]
                try:
                    if self._pull_run(run, content, [file for file in wanted if f"results/{run}/{file}" in names]):
                        self._there[run] = content
                except CorruptFile as error:
                    self._damaged.append(run)
                    print(f"{error}; left out, `fairbench run` makes it again", file=sys.stderr)
            with self._speaking():
                boards = self._read([name for name in listed if BOARD.fullmatch(name)])
            for name, content in boards.items():
                _write(self.folder / name, content)

    def set_damage_aside(self) -> None:
        """Rename the records there of runs that `pull` found damaged, so that nobody takes them for finished."""
        for run in self._damaged:
            there = f"{self._base}/results/{run}/run.json"
            with self._speaking():
                number = next(n for n in count(1) if not self._system.exists(f"{there}.corrupt-{n}"))
                self._system.mv(there, f"{there}.corrupt-{number}")

    def push_runs(self) -> None:
        """Copy every run that is finished here and not there, its record last; raises FairbenchError."""
        for path in sorted((self.folder / "results").glob("*/*/*/run.json")):
            folder, content = RunFolder(path.parent), path.read_bytes()
            run = folder.path.relative_to(self.folder / "results").as_posix()
            if content == self._there.get(run) or folder.damage():
                continue  # what is damaged is made again first
            record = folder.read()
            if record.get("status") != "complete":
                continue
            if run in self._there and _covers(_record(self._there[run], run), record):
                continue
            with self._speaking():
                there = f"{self._base}/results/{run}"
                self._system.makedirs(there, exist_ok=True)
                if self._system.exists(f"{there}/run.json"):
                    self._system.rm_file(f"{there}/run.json")  # from here on it is no run, until it is a whole one
                for name in FILES:
                    if name in record["files"] and (folder.path / name).exists():
                        self._system.put_file(str(folder.path / name), f"{there}/{name}")
                self._system.pipe_file(f"{there}/run.json", content)
            self._there[run] = content

    def push_boards(self) -> None:
        """Copy the boards; raises FairbenchError."""
        for path in sorted((self.folder / "leaderboards").glob("*/v*.csv")):
            with self._speaking():
                there = f"{self._base}/{path.relative_to(self.folder).as_posix()}"
                self._system.makedirs(there.rpartition("/")[0], exist_ok=True)
                self._system.pipe_file(there, path.read_bytes())

    def _pull_run(self, run: str, content: bytes, names: Sequence[str]) -> bool:
        """Bring one run here unless it is here; False for one that is not finished.

        Raises CorruptFile, before anything changes here, for a damaged one.
        """
        if any(part in {".", ".."} for part in run.split("/")):
            raise CorruptFile(f"{self.url}/results/{run}: names no run folder")
        record = _record(content, f"{self.url}/results/{run}/run.json")
        folder = RunFolder(self.folder / "results" / run)
        if record.get("status") != "complete":
            return False
        here = folder.run.read_bytes() if folder.run.exists() else b""
        if here == content and all((folder.path / name).exists() for name in names):
            return True
        if here and here != content:
            own = folder.read() if not folder.damage() else {}
            if own.get("status") == "complete" and not _covers(record, own):
                return True
        with self._speaking():
            files = self._read([f"results/{run}/{name}" for name in names])
        for name, data in files.items():
            expected = record["files"].get(name.rpartition("/")[2])
            if expected is None or sha256(data).hexdigest() != expected:
                raise CorruptFile(f"{self.url}/{name}: content does not match the checksum in run.json")
        with folder.lock():
            folder.run.unlink(missing_ok=True)
            folder.drop_resume()
            for name, data in files.items():
                _write(self.folder / name, data)
            _write(folder.run, content)
        return True

    def _read(self, names: Sequence[str]) -> dict[str, bytes]:
        """Content by name, read together, which a distant store does side by side; what has just gone is left out."""
        if not names:
            return {}
        found = self._system.cat([f"{self._base}/{name}" for name in names], on_error="omit")
        return {path.removeprefix(self._base).lstrip("/"): content for path, content in found.items()}

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Raise what a store raises, of its own kinds, as one line."""
        try:
            yield
        except ImportError as error:
            install = (
                "pip install 'robust-fairbench[remote]'" if (error.name or "").startswith("fsspec") else f"{error}"
            )
            raise Missing(f"{self.url}: needs a package that is not installed: {install}") from None
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise FairbenchError(f"{self.url}: cannot be read or written: {reason}") from None


def _split(url: str) -> tuple[str, str, str]:
    """The root, `results/` or `leaderboards/`, and what is named below it; the last two empty for a root."""
    for name in ("results", "leaderboards"):
        root, slash, inner = url.rpartition(f"/{name}/")
        if slash:
            return root, slash, inner
    if url.endswith(".csv"):
        raise InvalidInput(f"{url}: a board is read from the `leaderboards` beside its `results`")
    return url, "", ""


def _record(content: bytes, where: str) -> Mapping[str, Any]:
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{where}: not valid JSON: {error}") from None
    return check_record(unseal(record, where), where)


def _covers(record: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a record has all evaluations and protocols of another."""
    evaluated: bool = record["evaluations"].keys() >= other["evaluations"].keys()
    return evaluated and all(record["protocols"].get(version) == asked for version, asked in other["protocols"].items())


def _write(path: Path, content: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(content)
