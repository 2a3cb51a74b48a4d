"""The local folder that mirrors a URL: runs are copied in the direction in which they are missing."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import count
from pathlib import Path

from fairbench.errors import CorruptFile, FairbenchError, Missing
from fairbench.files import atomic, locked, refuse_links
from fairbench.results.address import public, redacted
from fairbench.results.folder import RunFolder
from fairbench.results.mirrored import FILES, WEIGHTS, bytes_of, covers, files_of, has_more, is_whole, record_of

__all__ = ["Mirror"]

RUN = re.compile(r"results/([^/]+/[^/]+/[^/]+)/run\.json")
BOARD = re.compile(r"leaderboards/[^/]+/v[^/]+\.csv")


class Mirror:
    """The local folder that mirrors a URL, and the copies between them; `folder` has `results` and `leaderboards`.

    It is in `$FAIRBENCH_MIRRORS`, or else in `home`, named after the URL. Runs are named `suite/method/run_id`.
    """

    def __init__(self, url: str, home: Path = Path("fairbench-out") / "mirrors") -> None:
        self.url = public(url.rstrip("/"))  # for messages and the folder's name; only the store gets credentials
        self._address = url.rstrip("/")
        readable = re.sub(r"[^A-Za-z0-9]+", "-", self.url).strip("-")[:60]
        home = Path(os.environ.get("FAIRBENCH_MIRRORS") or home)
        self.folder = home / f"{readable}-{sha256(self.url.encode()).hexdigest()[:8]}"
        self._there: dict[str, bytes] = {}
        self._damaged: dict[str, bytes] = {}
        with self._speaking():
            from fsspec.core import url_to_fs

            self._system, base = url_to_fs(self._address)
        self._base = str(base).rstrip("/")

    def pull(self, weights_of: Collection[str] = (), only: Collection[str] | None = None) -> None:
        """Copy the finished runs and leaderboards from the URL, or `only` some runs; weights of the named runs alone.

        A finished local run is replaced if the one at the URL has more evaluations. A damaged run at the URL is
        reported on stderr and left out.
        """
        refuse_links(self.folder, levels=2)
        places = [self._base] if only is None else [f"{self._base}/results/{run}" for run in only]
        with locked(self.folder / "pull"):
            names = self._list(places)
            for run in list(self._there) if only is None else only:
                self._there.pop(run, None)
                self._damaged.pop(run, None)
            self._pull_runs(names, weights_of)
            if only is None:
                self._pull_boards(names)

    def pull_run(self, run: str) -> bool:
        """Copy one finished run from the URL without its weights; returns whether an intact one exists there."""
        self.pull(only=[run])
        return run in self._there

    def set_damage_aside(self) -> None:
        """Rename the records at the URL of runs that `pull` found damaged, so that they no longer count as finished."""
        for run, content in self._damaged.items():
            name = f"results/{run}/run.json"
            with self._speaking():
                if self._read([name]).get(name) != content:
                    continue  # another process has replaced the run meanwhile
                there = f"{self._base}/{name}"
                number = next(n for n in count(1) if not self._system.exists(f"{there}.corrupt-{n}"))
                self._system.mv(there, f"{there}.corrupt-{number}")

    def drop_lost(self, runs: Collection[str]) -> None:
        """Delete the records of finished local runs whose weights are neither here nor at the URL, so that they run
        again.
        """
        for run in runs:
            folder = RunFolder(self.folder / "results" / run)
            if run in self._there or not folder.run.exists():
                continue
            with folder.lock():
                lost = folder.run.exists() and not folder.damage() and not is_whole(folder)
                if lost:
                    folder.run.unlink()
            if lost:
                print(f"{self.url}/results/{run}: is gone; it will run again", file=sys.stderr)

    def push_runs(self) -> None:
        """Copy every finished run that the URL lacks, its record last; raises FairbenchError."""
        for path in sorted((self.folder / "results").glob("*/*/*/run.json")):
            self.push_run(path.parent.relative_to(self.folder / "results").as_posix())

    def push_run(self, run: str) -> None:
        """Copy one run unless the URL has it with as many evaluations, or it is not complete here."""
        folder = RunFolder(self.folder / "results" / run)
        content = folder.run.read_bytes()
        if content == self._there.get(run) or folder.damage() or not is_whole(folder):
            return  # the run repairs its damaged files first
        record, name = folder.read(), f"results/{run}/run.json"
        with self._speaking():
            now = self._read([name]).get(name)
        if now is not None and now != self._damaged.get(run) and covers(now, record):
            self._there[run] = now
            return
        with self._speaking():
            there = f"{self._base}/results/{run}"
            self._system.makedirs(there, exist_ok=True)
            if now is not None:
                self._system.rm_file(f"{there}/run.json")  # a run without record does not count
            for file in files_of(record):
                self._system.put_file(str(folder.path / file), f"{there}/{file}")
            if bytes_of(folder) != content:
                return  # attacks were added meanwhile: the files may be newer, and the next push copies them again
            self._system.pipe_file(f"{there}/run.json", content)
        self._there[run] = content

    def push_boards(self) -> None:
        """Copy the leaderboards; raises FairbenchError."""
        for path in sorted((self.folder / "leaderboards").glob("*/v*.csv")):
            with self._speaking():
                there = f"{self._base}/{path.relative_to(self.folder).as_posix()}"
                self._system.makedirs(there.rpartition("/")[0], exist_ok=True)
                self._system.pipe_file(there, path.read_bytes())

    def _list(self, places: Sequence[str]) -> list[str]:
        """Return the names of all files below some folders at the URL, relative to it."""
        with self._speaking():
            self._system.invalidate_cache()
            found = [path for place in places for path in self._system.find(place)]
        return [path.removeprefix(self._base).lstrip("/") for path in found]

    def _pull_runs(self, names: Sequence[str], weights_of: Collection[str]) -> None:
        """Copy the finished runs among these files, and note the damaged ones."""
        there = set(names)
        with self._speaking():
            records = self._read([name for name in names if RUN.fullmatch(name)])
        for name, content in records.items():
            run = name.removeprefix("results/").removesuffix("/run.json")
            wanted = [file for file in FILES if file not in WEIGHTS or run in weights_of]
            try:
                if self._pull_run(run, content, [file for file in wanted if f"results/{run}/{file}" in there]):
                    self._there[run] = content
            except CorruptFile as error:
                self._damaged[run] = content
                print(f"{error}; the run is left out, and `fairbench run` repeats it", file=sys.stderr)

    def _pull_boards(self, names: Sequence[str]) -> None:
        with self._speaking():
            boards = self._read([name for name in names if BOARD.fullmatch(name)])
        for name, content in boards.items():
            refuse_links((self.folder / name).parent, levels=2)
            _write(self.folder / name, content)

    def _pull_run(self, run: str, content: bytes, names: Sequence[str]) -> bool:
        """Copy one run unless it exists here; False for a run that is not finished.

        `names` are its files at the URL. Raises CorruptFile for a run that is damaged or lacks a file other than its
        weights, before any local change.
        """
        if any(part in {".", ".."} for part in run.split("/")):
            raise CorruptFile(f"{self.url}/results/{run}: names no run folder")
        record = record_of(content, f"{self.url}/results/{run}/run.json")
        folder = RunFolder(self.folder / "results" / run)
        if record.get("status") != "complete":
            return False
        names = list(dict.fromkeys([*(name for name in files_of(record) if name not in WEIGHTS), *names]))
        here = bytes_of(folder)
        if here == content and all((folder.path / name).exists() for name in names):
            return True
        if here != content and has_more(folder, content):
            return True
        files = self._read_intact(record["files"], {f"results/{run}/{name}": name for name in names})
        with folder.lock():
            now = bytes_of(folder)
            if now not in (here, content) and has_more(folder, content):
                return True  # a process that held the lock has finished the run, or added attacks to it
            folder.run.unlink(missing_ok=True)
            folder.drop_resume()
            for name, data in files.items():
                _write(self.folder / name, data)
            _write(folder.run, content)
        return True

    def _read_intact(self, sums: Mapping[str, str], names: Mapping[str, str]) -> dict[str, bytes]:
        """Return the contents of a run's files; `sums` has their checksums by name, `names` the name of each file.

        Raises CorruptFile for a file with another checksum or none, and for one that is missing unless it has weights.
        """
        with self._speaking():
            files = self._read(list(names))
        for place, name in names.items():
            if place in files and sha256(files[place]).hexdigest() != sums.get(name):
                raise CorruptFile(f"{self.url}/{place}: content does not match the checksum in run.json")
            if place not in files and name not in WEIGHTS:
                raise CorruptFile(f"{self.url}/{place}: is missing")
        return files

    def _read(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return contents by name, read in one call; files that were deleted meanwhile are left out."""
        if not names:
            return {}
        found = self._system.cat([f"{self._base}/{name}" for name in names], on_error="omit")
        return {path.removeprefix(self._base).lstrip("/"): content for path, content in found.items()}

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Turn any storage exception into a one-line FairbenchError."""
        try:
            yield
        except ImportError as error:
            install = (
                "pip install 'robust-fairbench[remote]'"
                if (error.name or "").startswith("fsspec")
                else redacted(f"{error}", self._address)
            )
            raise Missing(f"{self.url}: needs a package that is not installed: {install}") from None
        except Exception as error:
            reason = redacted(" ".join(f"{type(error).__name__}: {error}".split()), self._address)[:200]
            raise FairbenchError(f"{self.url}: cannot be read or written: {reason}") from None


def _write(path: Path, content: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(content)
