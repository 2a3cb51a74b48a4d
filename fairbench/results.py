"""The run folder `results/<suite>/<method>/<run id>/`: what is in it, how it is written whole and read back."""

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
from fairbench.files import atomic, checksum, locked, read_json, write_json, write_text

__all__ = ["SCHEMA", "RunFolder", "find_runs"]

SCHEMA = 1


class RunFolder:
    """One run's files; every writer is atomic, and `run.json` holds the checksum of each finished file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path / "run.json"
        self.verdicts = path / "verdicts.npz"
        self.history = path / "history.csv"
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"
        self.resume = path / "resume.safetensors"
        self.status = path / "resume.json"

    def read(self) -> dict[str, Any]:
        """Return `run.json`, or an empty dict before it exists; raises CorruptFile."""
        if not self.run.exists():
            return {}
        record = read_json(self.run)
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise CorruptFile(f"{self.run}: not a run record of schema {SCHEMA}")
        return record

    def write(self, record: Mapping[str, Any]) -> None:
        """Write `run.json` with the schema version and the checksums of the files beside it."""
        files = (self.verdicts, self.history, self.best, self.last)
        sums = {path.name: checksum(path) for path in files if path.exists()}
        write_json(self.run, {"schema": SCHEMA, **record, "files": sums})

    def verify(self) -> None:
        """Raise CorruptFile when a file differs from the checksum that `run.json` has for it."""
        for name, expected in self.read().get("files", {}).items():
            path = self.path / name
            if path.exists() and checksum(path) != expected:
                raise CorruptFile(f"{path}: content does not match the checksum in run.json")

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `history.csv`, one epoch a row; columns are the union of the rows' keys in order of appearance."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.history, text.getvalue())

    def write_verdicts(self, labels: NDArray[np.int64], predicted: Mapping[str, NDArray[np.int64]]) -> None:
        """Write `verdicts.npz`: `labels` and one array per `<checkpoint>/<attack>`, int16."""
        arrays = {"labels": labels, **predicted}
        with atomic(self.verdicts) as temporary, temporary.open("wb") as handle:
            compact: dict[str, Any] = {key: np.asarray(value, np.int16) for key, value in arrays.items()}
            np.savez_compressed(handle, **compact)

    def read_verdicts(self) -> dict[str, NDArray[np.int64]]:
        """Return the arrays of `verdicts.npz` by key, empty before it exists; raises CorruptFile."""
        if not self.verdicts.exists():
            return {}
        try:
            with self.verdicts.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
                return {key: archive[key].astype(np.int64) for key in archive.files}
        except Exception as error:  # zipfile, zlib and numpy each raise kinds of their own on damaged bytes
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise CorruptFile(f"{self.verdicts}: not a verdicts file: {reason}; remove it to evaluate again") from None

    def drop_resume(self) -> None:
        """Remove the resume files of a finished training."""
        for path in (self.resume, self.status):
            path.unlink(missing_ok=True)

    @contextmanager
    def lock(self, waiting: Any = lambda: None) -> Iterator[None]:
        """Hold the run exclusively, so that two identical runs started at once do the work once.

        What a killed writer left half-written is removed.
        """
        with locked(self.path, waiting):
            for file in (self.run, self.verdicts, self.history, self.best, self.last, self.resume, self.status):
                for left in self.path.glob(f".{file.name}.*"):
                    left.unlink()
            yield


def find_runs(root: Path, suite: str) -> list[tuple[RunFolder, dict[str, Any]]]:
    """Return the complete runs of a suite below a results folder, sorted by method and run id; raises CorruptFile."""
    found = []
    for path in sorted((root / suite).glob("*/*/run.json")):
        folder = RunFolder(path.parent)
        record = folder.read()
        if record.get("status") == "complete":
            found.append((folder, record))
    return found
