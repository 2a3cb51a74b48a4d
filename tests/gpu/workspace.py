"""The folder that a board is made in: what its tables and records say, and which of its files are worth packing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairbench.results.folder import RunFolder
from fairbench.run.tuning.table import read_table, table_path
from fairbench.suites.chosen import read_chosen, user_path
from fairbench.suites.suite import Suite
from gpu.packing import Parcel
from gpu.reserve import Costs

__all__ = ["Workspace"]

RECORDS = ("run.json", "verdicts.npz", "history.csv")
WEIGHTS = ("best.safetensors", "last.safetensors")


@dataclass(frozen=True)
class Workspace:
    """`folder` has the layout of a checkout: results/, tuning/ and leaderboards/, which commands write with --publish.

    `committed` is the checkout, whose finished trials and runs of the suite are not made again.
    """

    folder: Path
    suite: Suite
    committed: Path

    def prepare(self, file: Path | None = None) -> None:
        """Copy the suite's committed trials and runs, unless the folder has its own.

        `file` is the YAML file of a suite that is not built in. Commands find its copy by name: a path would stand in
        the records.
        """
        (self.folder / "suites").mkdir(parents=True, exist_ok=True)
        if file is not None:
            shutil.copyfile(file, self.folder / "suites" / f"{self.suite.name}.yaml")
        for part in ("tuning", "results"):
            source, target = (root / part / self.suite.name for root in (self.committed, self.folder))
            if source.is_dir() and not target.exists():
                shutil.copytree(source, target)

    def trials(self) -> dict[str, list[float]]:
        """Seconds of the finished trials, by method."""
        path = table_path(self.folder, self.suite.name, self.suite.version)
        found: dict[str, list[float]] = {}
        for row in read_table(path) if path.exists() else ():
            found.setdefault(row.method, []).append(row.train_seconds)
        return found

    def tuned(self, methods: Sequence[str]) -> list[str]:
        """The methods whose trials are all finished, or whose settings are inherited from such a method."""
        path = user_path(self.folder, self.suite.name, self.suite.version)
        entries = read_chosen(path, self.suite).methods if path.exists() else {}
        wanted = self.suite.tuning.trials if self.suite.tuning else None
        done = {name for name, entry in entries.items() if entry.trials == wanted}
        return [name for name in methods if self.suite.inherits.get(name, name) in done]

    def costs(self, jobs: int) -> Costs:
        """What trials and evaluations have taken so far."""
        seconds = [
            sum(entry["seconds"] for entry in record["evaluations"].values())
            for _, record in self._runs()
            if record["status"] == "complete"
        ]
        return Costs(jobs, self.trials(), seconds)

    def board(self) -> Path:
        """The board of the suite's version."""
        return self.folder / "leaderboards" / self.suite.name / f"v{self.suite.version}.csv"

    def parcels(self, methods: Sequence[str]) -> list[Parcel]:
        """What can be published: settings and trials, boards, then the records of complete runs, teachers first.

        Files that the checkout has with the same content are left out.
        """
        folders = [self.folder / part / self.suite.name for part in ("tuning", "leaderboards")]
        files = [
            self.folder / "suites" / f"{self.suite.name}.yaml",
            *(path for each in folders for path in sorted(each.glob("v*.*"))),
        ]
        found = [Parcel(self.folder, [path.relative_to(self.folder)]) for path in files if path.exists()]
        found += [
            self._parcel(path, RECORDS) for path, record in self._sorted(methods) if record["status"] == "complete"
        ]
        return [parcel for parcel in found if not self._known(parcel)]

    def weights(self, methods: Sequence[str]) -> list[Parcel]:
        """Weights of teachers and of seed 0; and whole folders of runs that were trained and not evaluated."""
        found = []
        for path, record in self._sorted(methods):
            present = [name for name in WEIGHTS if (path / name).exists()]
            if record["status"] == "trained" and present:
                found.append(self._parcel(path, (*RECORDS, *WEIGHTS)))
            elif record["seed"] == 0 or record["spec"]["role"] != "student":
                found += [self._parcel(path, [name]) for name in present]
        return [parcel for parcel in found if not self._known(parcel)]

    def _parcel(self, path: Path, names: Sequence[str]) -> Parcel:
        return Parcel(self.folder, [(path / name).relative_to(self.folder) for name in names if (path / name).exists()])

    def _known(self, parcel: Parcel) -> bool:
        return all(
            (self.committed / path).is_file()
            and (self.committed / path).read_bytes() == (parcel.root / path).read_bytes()
            for path in parcel.paths
        )

    def _sorted(self, methods: Sequence[str]) -> list[tuple[Path, dict[str, Any]]]:
        """The runs, but trials: teachers and warm starts, then students in the order of `methods`, then by seed."""
        order = {name: place for place, name in enumerate(methods)}

        def place(run: tuple[Path, dict[str, Any]]) -> tuple[bool, int, int, str]:
            path, record = run
            student = record["spec"]["role"] == "student"
            return student, record["seed"], order.get(record["method"], len(order)), path.name

        return sorted(((path, record) for path, record in self._runs() if not record["spec"].get("trial")), key=place)

    def _runs(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Folders and records of runs that are trained or complete."""
        for path in sorted((self.folder / "results" / self.suite.name).glob("*/*/run.json")):
            record = json.loads(path.read_text(encoding="utf-8"))
            if record.get("status") in {"trained", "complete"} and not RunFolder(path.parent).damage():
                yield path.parent, record
