"""A leaderboard as a site shows it: its rows with their classes, its run folders, and the paths of its pages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import pandas as pd

from fairbench.errors import Missing
from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard.changed import has_changed_settings, why_unranked
from fairbench.leaderboard.classes import class_columns
from fairbench.leaderboard.merge import YOURS, Merged, read_alone
from fairbench.leaderboard.published import find_published, load_published
from fairbench.leaderboard.ranking import attack_on_all_images, ranking
from fairbench.leaderboard.unrounded import unrounded
from fairbench.report.flows import Run, runs_by_method
from fairbench.report.standings import Groups, groups, standings_of
from fairbench.report.text.board import as_csv

__all__ = ["Board", "file_name", "read_board"]


@dataclass(frozen=True)
class Board:
    """A leaderboard with its class columns and run folders; `published` is what papers report, `csv` the download."""

    name: str
    version: str
    frame: pd.DataFrame
    csv: str
    runs: Mapping[str, Sequence[Run]]
    class_names: Sequence[str]
    published: pd.DataFrame | None = None

    @property
    def stem(self) -> str:
        """Name of the board's page without the suffix, and of the folder with the pages of its methods."""
        return file_name(f"{self.name}-{self.version}")

    @cached_property
    def groups(self) -> Groups:
        """The rows by method, checkpoint and attack."""
        return groups(self.frame)

    @cached_property
    def standings(self) -> pd.DataFrame:
        """A row per method under the union on the best checkpoint; empty where the board has no such rows."""
        return standings_of(self.groups)

    @cached_property
    def ranking(self) -> pd.DataFrame:
        """The ranking by the worst class under the union on the best checkpoint; empty as `standings` is."""
        return self.standings if self.standings.empty else ranking(self.frame, ranked=self.ranked)

    @cached_property
    def rankings(self) -> Mapping[str, pd.DataFrame]:
        """The ranking by the worst class on the best checkpoint under each attack, the union first."""
        best = self.frame[self.frame["checkpoint"] == "best"]
        under = {UNION: self.ranking} if len(self.ranking) else {}
        others = [name for name in map(str, best["attack"].unique()) if name != UNION]
        return under | {name: ranking(self.frame, attack=name, ranked=self.ranked) for name in others}

    @cached_property
    def whole(self) -> str | None:
        """The strongest attack on all test images, if the union covers a part of them."""
        return attack_on_all_images(self.frame)

    @property
    def ranked(self) -> bool:
        """Whether the rows are results of the suite: no smoke test, and no settings that differ from the suite's."""
        return not self.unranked

    @cached_property
    def unranked(self) -> str:
        """Why the rows are not ranked: a smoke test, or settings that are not the suite's; empty if they are ranked."""
        return why_unranked(self.frame, ranked=not has_changed_settings(self.version))

    @property
    def methods(self) -> list[str]:
        """Every method, teacher and warm start on the board, sorted by name."""
        return sorted(map(str, self.frame["method"].unique()))

    def href(self, method: str) -> str:
        """Address of a method's page, relative to the page of the board."""
        return f"{self.stem}/{file_name(method)}.html"


def read_board(path: Path, merged: Merged | None = None) -> Board:
    """Read a leaderboard CSV, its sibling `.classes.csv`, and the run folders of its rows.

    Run folders are looked for in the `results` folder beside the `leaderboards` folder of the CSV. Published figures
    come from `find_published`; without them `published` is None. Raises Missing and CorruptFile.
    """
    found = (merged or read_alone(path)).frame
    frame = unrounded(found)
    root = path.resolve().parent.parent.parent
    runs = _runs(frame, root / "results")
    known = next((list(own[0][1]["class_names"]) for own in runs.values()), None)
    names = known or [name.removeprefix("class_") for name in class_columns(list(frame))]
    text = as_csv(found.drop(columns="home", errors="ignore"))
    return Board(str(frame["suite"].iloc[0]), path.stem, frame, f"{text}\n", runs, names, _published(root))


def file_name(text: str) -> str:
    """Turn a name into a part of a path for any system: replace other characters than letters, digits and `_.+-`.

    A replaced name gets a hash of the original, so that two names never give one path.
    """
    plain = re.sub(r"[^A-Za-z0-9_.+-]+", "-", text).strip(".-")[:80]
    return plain if plain and plain == text else f"{plain}-{sha256(text.encode()).hexdigest()[:8]}".lstrip("-")


def _runs(frame: pd.DataFrame, results: Path) -> Mapping[str, Sequence[Run]]:
    """Find the run folders of a board; those of merged rows lie beside the board that each row comes from."""
    if "home" not in frame:
        return runs_by_method(frame, results)
    found: dict[str, Sequence[Run]] = {}
    for home, rows in frame.groupby("home"):
        own = rows.assign(method=rows["method"].str.removesuffix(f"@{YOURS}"))
        names = dict(zip(own["method"], rows["method"], strict=True))
        runs = runs_by_method(own, Path(str(home)).resolve().parent.parent.parent / "results")
        found |= {str(names.get(method, method)): folders for method, folders in runs.items()}
    return found


def _published(root: Path) -> pd.DataFrame | None:
    try:
        return load_published(find_published(root))
    except Missing:
        return None
