"""The run folder `results/<suite>/<method>/<run id>/`: its files, atomic writes, and reading."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairbench.errors import CorruptFile
from fairbench.evaluation.store import read_verdicts, write_verdicts
from fairbench.files import checksum, locked, open_regular, read_json, refuse_links, write_json, write_text
from fairbench.results.record import SCHEMA, check_record, seal, unseal

__all__ = ["SCHEMA", "RunFolder", "each_run", "find_runs"]


class RunFolder:
    """The files of one run, written atomically; `run.json` holds the checksum of each finished file and its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path / "run.json"
        self.verdicts = path / "verdicts.npz"
        self.partial = path / "partial.jsonl"
        self.history = path / "history.csv"
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"
        self.resume = path / "resume.safetensors"
        self.status = path / "resume.json"

    def read(self) -> dict[str, Any]:
        """Return `run.json`, or an empty dict before it exists; raises CorruptFile."""
        if not self.run.exists():
            return {}
        return dict(check_record(unseal(read_json(self.run), self.run), self.run))

    def write(self, record: Mapping[str, Any]) -> None:
        """Write `run.json` with the schema version, the checksums of the files beside it, and its own."""
        files = (self.verdicts, self.history, self.best, self.last)
        sums = {path.name: checksum(path) for path in files if path.exists()}
        write_json(self.run, seal({"schema": SCHEMA, **record, "files": sums}))

    def verify(self) -> None:
        """Raise CorruptFile if a file does not match its checksum in `run.json`."""
        for path, reason in self.damage().items():
            raise CorruptFile(reason, path)

    def damage(self) -> dict[Path, str]:
        """Return the damaged files and the reason for each; missing files do not count as damaged.

        While attacks are added the verdicts are newer than the record, and only have to be readable. Raises CorruptFile
        for an intact record that this version cannot read.
        """
        try:
            record = self.read()
        except CorruptFile as error:
            if error.path != self.run:  # intact, but of another version: it must not be overwritten
                raise
            return {self.run: str(error)}
        found: dict[Path, str] = {}
        for path in (self.verdicts, self.history, self.best, self.last):
            ahead = path == self.verdicts and record.get("status") != "complete"
            if not ahead and not self._matches(path, record):
                found[path] = _mismatch(path)
        if record.get("status") == "trained":
            try:
                self.read_verdicts()
            except CorruptFile as error:
                found[self.verdicts] = str(error)
        return found

    def _matches(self, path: Path, record: Mapping[str, Any]) -> bool:
        """Tell whether a file has the checksum in the record; True if either is missing."""
        expected = record.get("files", {}).get(path.name)
        return expected is None or not path.exists() or checksum(path) == expected

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `history.csv`, one epoch per row; columns are the union of the rows' keys in order of appearance."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.history, text.getvalue())

    def read_history(self) -> list[dict[str, str]]:
        """Return the rows of `history.csv` as text, none before it exists; raises Missing for a pipe or device."""
        if not self.history.exists():
            return []
        with io.TextIOWrapper(open_regular(self.history), encoding="utf-8", newline="") as handle:
            try:
                return list(csv.DictReader(handle))
            except (csv.Error, UnicodeDecodeError) as error:
                raise CorruptFile(f"{self.history}: {error}") from None

    def write_verdicts(self, labels: NDArray[np.int64], predicted: Mapping[str, NDArray[np.int64]]) -> None:
        """Write `verdicts.npz`: `labels` int64 [N], and packed verdicts under keys such as `best/pgd-20`."""
        write_verdicts(self.verdicts, labels, predicted)

    def read_verdicts(self) -> dict[str, NDArray[np.int64]]:
        """Return the arrays of `verdicts.npz` by key, empty before it exists; raises CorruptFile."""
        return read_verdicts(self.verdicts) if self.verdicts.exists() else {}

    def vouched_verdicts(self, record: Mapping[str, Any]) -> dict[str, NDArray[np.int64]]:
        """Return `read_verdicts()`; raises CorruptFile too if the record has another checksum of the file, or none.

        The other files of the run, such as the weights, are not examined.
        """
        known = self.verdicts.name in record.get("files", {}) or not self.verdicts.exists()
        if not known or not self._matches(self.verdicts, record):
            raise CorruptFile(_mismatch(self.verdicts))
        return self.read_verdicts()

    def drop_resume(self) -> None:
        """Remove the resume files of a finished training."""
        for path in (self.resume, self.status):
            path.unlink(missing_ok=True)

    @contextmanager
    def lock(self, waiting: Any = lambda: None) -> Iterator[None]:
        """Hold the run exclusively, so that two identical runs do the work once.

        Temporary files of a killed writer are removed. Raises InvalidInput if the folder, or one of the three above it
        (`results/SUITE/METHOD`), is a link.
        """
        refuse_links(self.path, levels=4)
        with locked(self.path, waiting):
            for file in (self.run, self.verdicts, self.history, self.best, self.last, self.resume, self.status):
                for left in self.path.glob(f".{file.name}.*"):
                    left.unlink()
            yield


def _mismatch(path: Path) -> str:
    return f"{path}: content does not match the checksum in run.json"


def find_runs(root: Path, suite: str) -> list[tuple[RunFolder, dict[str, Any]]]:
    """Return the complete runs of a suite below a results folder, sorted by method and run id; raises CorruptFile."""
    return list(each_run(root, suite))


def each_run(root: Path, suite: str, method: str = "*") -> Iterator[tuple[RunFolder, dict[str, Any]]]:
    """Yield the runs of `find_runs` one at a time, of one method if it is named."""
    for path in sorted((root / suite).glob(f"{method}/*/run.json")):
        folder = RunFolder(path.parent)
        record = folder.read()
        if record.get("status") == "complete":
            yield folder, record
