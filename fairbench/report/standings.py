"""The rows of a board by method and attack, and one standing for each method, which plots and pages show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from fairbench.errors import UnknownName
from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard.classes import class_columns, shared_worst, with_shared
from fairbench.leaderboard.columns import ROLES

__all__ = [
    "Group",
    "Groups",
    "drawn",
    "groups",
    "number",
    "pareto_front",
    "standings",
    "standings_of",
]

SPREAD = ("average", "worst", "nsd")
PLAIN = ("nsd_corrected", "gap", "train_seconds", "forwards", "backwards", "flops", "peak_memory_mb")

Row = Mapping[str, Any]


@dataclass
class Group:
    """The rows of one method, checkpoint and attack: a row per run, and the rows over seeds if the board has them."""

    runs: list[Row] = field(default_factory=list)
    mean: Row = field(default_factory=dict)
    std: Row = field(default_factory=dict)

    @property
    def shown(self) -> Row:
        """The row that represents the group: that of a single run, or the mean over seeds."""
        return self.runs[0] if self.runs and (len(self.runs) == 1 or not self.mean) else self.mean

    @property
    def red(self) -> list[str]:
        """Sanity checks that are red in any run, sorted."""
        named = {flag for row in self.runs or [self.mean] for flag in (row["flags"] or "").split(";")}
        return sorted(named - {"", "none"})

    @property
    def worst_classes(self) -> str:
        """The worst class of every run, and how many further classes are as low (`classes.shared_worst`)."""
        names = dict.fromkeys(run["worst_class"] for run in self.runs if run["worst_class"])
        columns = class_columns(list(self.runs[0])) if self.runs else []
        accuracies = np.array([[number(run[name]) for name in columns] for run in self.runs], dtype=np.float64)
        return with_shared(", ".join(names), shared_worst(accuracies, len(names)) if columns else 0)

    def spread(self, name: str) -> tuple[float, float, float]:
        """A figure and the ends of its error bar: one deviation over seeds, or the interval of a single run."""
        value, deviation = number(self.shown[name]), number(self.std.get(name))
        if len(self.runs) != 1 and not math.isnan(deviation):
            return value, max(0.0, value - deviation), value + deviation
        return value, number(self.shown.get(f"{name}_lo")), number(self.shown.get(f"{name}_hi"))


Groups = Mapping[tuple[str, str, str], Group]


def groups(board: pd.DataFrame) -> dict[tuple[str, str, str], Group]:
    """Split a board into groups by (method, checkpoint, attack), in its order; missing cells are None."""
    names = list(board.columns)
    columns = [board[name].astype(object).where(board[name].notna(), None).tolist() for name in names]
    found: dict[tuple[str, str, str], Group] = {}
    for cells in zip(*columns, strict=True):
        row = dict(zip(names, cells, strict=True))
        group = found.setdefault((row["method"], row["checkpoint"], row["attack"]), Group())
        if row["seed"] == "mean":
            group.mean = row
        elif row["seed"] == "std":
            group.std = row
        else:
            group.runs.append(row)
    return found


def standings(board: pd.DataFrame, *, attack: str = UNION, checkpoint: str = "best") -> pd.DataFrame:
    """Return a row per method, the best worst class first; teachers and warm starts (`role`) come last.

    Columns: method, role, provenance, seeds; average, worst, nsd and clean (the average without an attack), each with
    `_low` and `_high`; costs; the class accuracies; `front`, true for methods that no other one beats in both average
    and worst class. Over several seeds a figure is their mean and its spread one standard deviation; with a single
    seed the spread is the 95 % interval, where the board has one. Raises UnknownName for an attack or a checkpoint that
    the board lacks.
    """
    for kind, name in (("checkpoint", checkpoint), ("attack", attack)):
        if name not in set(board[kind]):
            raise UnknownName(f"{kind} of this board", name, map(str, board[kind].dropna().unique()))
    return standings_of(groups(board), attack=attack, checkpoint=checkpoint)


def standings_of(found: Groups, *, attack: str = UNION, checkpoint: str = "best") -> pd.DataFrame:
    """Return `standings` of a board that is already split into groups; the frame is empty where no method has rows."""
    rows = [
        _standing(method, group, found.get((method, checkpoint, "clean")))
        for (method, kind, under), group in found.items()
        if (kind, under) == (checkpoint, attack) and group.shown
    ]
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    frame = frame.sort_values("method").reset_index(drop=True)
    frame = frame.iloc[np.lexsort((-frame["average"], -frame["worst"], frame["role"]))].reset_index(drop=True)
    frame["front"] = pareto_front(frame["average"].where(~frame["role"]), frame["worst"].where(~frame["role"]))
    return frame


def drawn(table: pd.DataFrame) -> pd.DataFrame:
    """Return the standings that a plot shows: every method and, of the roles, only the teacher."""
    return table[~table["role"] | (table["method"] == "teacher")]


def pareto_front(first: pd.Series[Any], second: pd.Series[Any]) -> list[bool]:
    """Say for each point [N] whether no other is at least as high in both figures and higher in one; False for NaN."""
    points = np.column_stack([first, second]).astype(np.float64)
    beaten = [bool(((points >= own).all(axis=1) & (points > own).any(axis=1)).any()) for own in points]
    return [not worse and not np.isnan(own).any() for worse, own in zip(beaten, points, strict=True)]


def number(value: Any) -> float:
    """A cell as a number; an empty cell becomes NaN."""
    return math.nan if value is None else float(value)


def _standing(method: str, group: Group, clean: Group | None) -> dict[str, Any]:
    shown = group.shown
    standing = {
        "method": str(method),
        "role": method in ROLES,
        "provenance": shown["provenance"] or "",
        "seeds": len(group.runs),
    }
    for name in SPREAD:
        standing |= dict(zip((name, f"{name}_low", f"{name}_high"), group.spread(name), strict=True))
    figures = clean.spread("average") if clean else (math.nan, math.nan, math.nan)
    standing |= dict(zip(("clean", "clean_low", "clean_high"), figures, strict=True))
    return standing | {name: number(shown[name]) for name in [*PLAIN, *class_columns(list(shown))]}
