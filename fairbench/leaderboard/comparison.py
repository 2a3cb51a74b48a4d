"""Comparison of two methods or checkpoints of a leaderboard, class by class, with significance tests."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from fairbench.errors import InvalidInput, UnknownName
from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard.board import load_leaderboard, runs_of
from fairbench.leaderboard.classes import with_classes
from fairbench.leaderboard.detectable import RECOMMENDED_SEEDS
from fairbench.leaderboard.differences import ORDERED, Difference, by_images, by_seeds
from fairbench.leaderboard.ranking import relative_score
from fairbench.leaderboard.unrounded import unrounded
from fairbench.statistics.significance import MIN_SEEDS, gatekeep

__all__ = ["Comparison", "compare_rows"]


@dataclass(frozen=True)
class Comparison:
    """Two sides under one attack at one checkpoint; `unit` is the unit of the tests, and so of the claim.

    `seeds` are those of either side, and `counts` says how many runs each has. `detectable` holds the smallest true
    differences, fractions, that the tests detect with power 80 %: `worst` and, for methods, `worst at five seeds`; for
    two checkpoints `average` and `class`. The former is that of two methods with the smaller number of seeds.
    """

    a: str
    b: str
    unit: Literal["images", "seeds", "none"]
    seeds: tuple[str, ...]
    counts: tuple[int, int]
    attack: str
    checkpoint: str
    differences: tuple[Difference, ...]
    relative: float
    detectable: Mapping[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The conclusion in one sentence."""
        if self.unit == "none":
            return (
                f"{len(self.seeds)} seeds in common: no method can be said to beat another below {MIN_SEEDS}, "
                f"{RECOMMENDED_SEEDS} are recommended; --seed compares two checkpoints"
            )
        wins = {side: [one.figure for one in self.differences if one.winner == side] for side in ("A", "B")}
        said = [
            f"{name} is better on {', '.join(wins[side])}"
            for side, name in (("A", self.a), ("B", self.b))
            if wins[side]
        ]
        found = "; ".join(said) or "no difference is significant"
        if self.unit == "seeds":
            counts = " and ".join(map(str, dict.fromkeys(self.counts)))
            return (
                f"{found} (t-tests over {counts} seeds with the board's variance; "
                "the worst class first, then the average, then the classes by Holm)"
            )
        return (
            f"{found} (McNemar's test by mid-p on the same images, Holm over {len(self.differences)} tests); "
            "this is about two checkpoints, not about the methods, whose unit is the seed"
        )


def compare_rows(
    path: Path,
    a: str,
    b: str,
    *,
    attack: str = UNION,
    checkpoint: str = "best",
    seed: str | None = None,
    board: pd.DataFrame | None = None,
) -> Comparison:
    """Compare two rows of a leaderboard, each given as a method's name or a run id.

    `board` replaces the content of the file, for example by rows merged with the committed ones (`merge.merged`).

    Two methods with three seeds each are compared over their seeds, with the moderated variance of
    `fairbench.statistics.moderated`. Two run ids, a `seed`, or a single common seed compare two checkpoints image by
    image, from the verdicts in the results beside the leaderboards. Otherwise nothing is tested. Over seeds the worst
    class is tested first, the average only if it differs, and the classes by Holm only if both differ. On images Holm's
    correction covers all figures, because a worst class of few images says little. Raises UnknownName for a method or
    an attack that is not on the leaderboard, InvalidInput for a board of means alone or sides without a common seed,
    and Missing if verdicts are needed and absent.
    """
    board = load_leaderboard(path) if board is None else board
    rows = board[(board["attack"] == attack) & (board["checkpoint"] == checkpoint)]
    if rows.empty:
        raise UnknownName("attack of this checkpoint", attack, board[board["checkpoint"] == checkpoint]["attack"])
    runs = unrounded(with_classes(path, runs_of(path, rows)))
    chosen = _chosen([_side(path, runs, name) for name in (a, b)], (a, b), seed)
    several: Literal["seeds", "none"] = "seeds" if min(map(len, chosen)) >= MIN_SEEDS else "none"
    single = all(len(side) == 1 for side in chosen)
    if single:
        differences, detected = by_images(path, chosen, attack, checkpoint)
    else:
        differences, detected = by_seeds(path, runs, chosen)
    means = pd.DataFrame([{"method": side, **_headline(rows)} for side, rows in zip("ba", chosen[::-1], strict=True)])
    return Comparison(
        a=a,
        b=b,
        unit="images" if single else several,
        seeds=tuple(sorted({str(value) for side in chosen for value in side["seed"]}, key=int)),
        counts=(len(chosen[0]), len(chosen[1])),
        attack=attack,
        checkpoint=checkpoint,
        differences=_adjusted(differences, () if single else ORDERED),
        relative=float(relative_score(means, "b").iloc[1]),
        detectable=detected,
    )


def _chosen(sides: Sequence[pd.DataFrame], names: Sequence[str], seed: str | None) -> list[pd.DataFrame]:
    """Return the compared runs: all runs if each side has three seeds, else those of the common seeds."""
    if seed is None and all(side["seed"].nunique() >= MIN_SEEDS for side in sides):
        return list(sides)
    common = set(sides[0]["seed"]) & set(sides[1]["seed"])
    common = {one for one in common if seed in (None, one)}
    by_run = any((side["run_id"] == name).any() for side, name in zip(sides, names, strict=True))
    chosen = [side if by_run and len(side) == 1 else side[side["seed"].isin(common)] for side in sides]
    if any(side.empty for side in chosen):
        wanted = f" that is {seed}" if seed else ""
        raise InvalidInput(f"{names[0]} and {names[1]} have no seed in common{wanted}: name two run ids")
    return chosen


def _side(path: Path, runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of a method or of one run."""
    for column in ("method", "run_id"):
        found = runs[runs[column] == name]
        if len(found):
            return found
    column = "run_id" if re.fullmatch("[0-9a-f]{6,}", name) else "method"
    raise UnknownName(f"method or run of {path}", name, set(runs[column]))


def _headline(rows: pd.DataFrame) -> dict[str, float]:
    return {name: float(rows[name].mean()) for name in ("average", "worst")}


def _adjusted(differences: Sequence[Difference], first: Sequence[str]) -> tuple[Difference, ...]:
    """Return the figures with adjusted p: those named `first` in order, then the others by Holm."""
    tested = [one for one in differences if not math.isnan(one.raw)]
    gates = [one.raw for one in tested if one.figure in first]
    ordered, family = gatekeep(gates, [one.raw for one in tested if one.figure not in first])
    values = iter([*ordered.tolist(), *family.tolist()])
    return tuple(one if math.isnan(one.raw) else replace(one, p=next(values)) for one in differences)
