"""A leaderboard as a site shows it: its rows with their classes, the runs behind them, and the pages it becomes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import pandas as pd

from fairbench.errors import Missing
from fairbench.leaderboard.classes import class_columns
from fairbench.leaderboard.merge import YOURS, Merged, read_alone
from fairbench.leaderboard.published import find_published, load_published
from fairbench.leaderboard.unrounded import unrounded
from fairbench.report.flows import Run, runs_of
from fairbench.report.standings import Groups, groups

__all__ = ["Board", "file_name", "read_board"]


@dataclass(frozen=True)
class Board:
    """A leaderboard with its class columns, its run folders, what papers report, and the pages it becomes."""

    name: str
    version: str
    frame: pd.DataFrame
    runs: Mapping[str, Sequence[Run]]
    class_names: Sequence[str]
    published: pd.DataFrame | None = None

    @property
    def stem(self) -> str:
        """Name of its page without the suffix, and of the folder of its methods' pages."""
        return file_name(f"{self.name}-{self.version}")

    @cached_property
    def groups(self) -> Groups:
        """Its rows by method, checkpoint and attack."""
        return groups(self.frame)

    @property
    def ranked(self) -> bool:
        """Whether its rows are results: neither a smoke test nor a run with settings of its own."""
        return ".custom-" not in self.version and not bool(self.frame["quick"].fillna(False).any())

    @property
    def methods(self) -> list[str]:
        """Every method and role on the board, sorted."""
        return sorted(map(str, self.frame["method"].unique()))

    def href(self, method: str) -> str:
        """Address of a method's page, from the board's."""
        return f"{self.stem}/{file_name(method)}.html"


def read_board(path: Path, merged: Merged | None = None) -> Board:
    """Read a CSV, the classes beside it where there are many, and the runs in the `results` beside its `leaderboards`.

    What papers report is in `leaderboards/published`, or where `find_published` looks else; without it there is none.
    Raises Missing and CorruptFile.
    """
    frame = unrounded((merged or read_alone(path)).frame)
    root = path.resolve().parent.parent.parent
    runs = _runs(frame, root / "results")
    known = next((list(own[0][1]["class_names"]) for own in runs.values()), None)
    names = known or [name.removeprefix("class_") for name in class_columns(list(frame))]
    return Board(str(frame["suite"].iloc[0]), path.stem, frame, runs, names, _published(root))


def file_name(text: str) -> str:
    """A name as part of a path on any system: what is not a letter, digit or `_.+-` is replaced, then told apart."""
    plain = re.sub(r"[^A-Za-z0-9_.+-]+", "-", text).strip(".-")[:80]
    return plain if plain and plain == text else f"{plain}-{sha256(text.encode()).hexdigest()[:8]}".lstrip("-")


def _runs(frame: pd.DataFrame, results: Path) -> Mapping[str, Sequence[Run]]:
    """The run folders of a board; those of merged rows lie beside the board that each row is from."""
    if "home" not in frame:
        return runs_of(frame, results)
    found: dict[str, Sequence[Run]] = {}
    for home, rows in frame.groupby("home"):
        own = rows.assign(method=rows["method"].str.removesuffix(f"@{YOURS}"))
        names = dict(zip(own["method"], rows["method"], strict=True))
        runs = runs_of(own, Path(str(home)).resolve().parent.parent.parent / "results")
        found |= {str(names.get(method, method)): folders for method, folders in runs.items()}
    return found


def _published(root: Path) -> pd.DataFrame | None:
    try:
        return load_published(find_published(root))
    except Missing:
        return None
