"""The smallest differences that the tests of a leaderboard detect."""

from __future__ import annotations

import math

import pandas as pd

from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard.columns import AGGREGATES, ROLES
from fairbench.leaderboard.seed_spread import spread_of
from fairbench.statistics.moderated import Spread, difference_detectable
from fairbench.statistics.significance import MIN_SEEDS, minimum_detectable_difference

__all__ = [
    "ALPHA",
    "DISCORDANCE",
    "RECOMMENDED_SEEDS",
    "detectable",
    "fewest_seeds",
    "images_detectable",
    "seeds_detectable",
]

ALPHA = 0.05
DISCORDANCE = 0.07  # assumed share of images on which two checkpoints differ, for the detectable difference
RECOMMENDED_SEEDS = 5


def images_detectable(images: int) -> float:
    """Return the smallest difference that `compare` detects between two checkpoints with power 80 % at level 5 %.

    It is that of McNemar's two-sided test with mid-p, if the checkpoints differ on DISCORDANCE of the images, or on as
    many as the difference if that is more.
    """
    return minimum_detectable_difference(images, DISCORDANCE, alpha=ALPHA / 2, mid_p=True)


def detectable(board: pd.DataFrame, *, attack: str = UNION, checkpoint: str = "best") -> dict[str, float]:
    """Return the smallest true differences, fractions, that the tests of `compare` detect with power 80 % at level 5 %.

    `average` and `class` are those of two checkpoints over all images and within the smallest class that has any.
    `worst` is that of two methods' worst classes with `fewest_seeds` each, `worst at five seeds` with the recommended
    number. Both need two methods with three seeds. Nothing is returned where no row says how many images there are.
    """
    rows = board[(board["attack"] == attack) & (board["checkpoint"] == checkpoint)]
    runs = rows[~rows["seed"].isin(AGGREGATES)]
    one = (rows if runs.empty else runs).iloc[0]
    if pd.isna(one["n"]):  # a row over seeds whose runs are not there may leave it out
        return {}
    counts = one[[name for name in board.columns if name.startswith("n_class_")]].astype("float64")
    found = {"average": images_detectable(int(one["n"]))}
    smallest = counts[counts > 0].min()
    if not math.isnan(smallest):
        found["class"] = images_detectable(int(smallest))
    seeds = fewest_seeds(runs)
    if seeds:
        found |= seeds_detectable(spread_of(runs, "worst"), seeds)
    return found


def fewest_seeds(rows: pd.DataFrame) -> int:
    """Return the smallest number of seeds of a method that can be compared over seeds; 0 without two such methods."""
    runs = rows[~rows["seed"].isin(AGGREGATES) & ~rows["method"].isin(ROLES)]
    sizes = runs.groupby("method")["seed"].nunique()
    sizes = sizes[sizes >= MIN_SEEDS]
    return int(sizes.min()) if len(sizes) > 1 else 0


def seeds_detectable(spread: Spread, seeds: int) -> dict[str, float]:
    """Return `worst` and `worst at five seeds` of `detectable` for two methods with so many seeds.

    Nothing is returned where one of them is infinite.
    """
    counts = {"worst": seeds, "worst at five seeds": RECOMMENDED_SEEDS}
    found = {name: difference_detectable(spread, count, alpha=ALPHA) for name, count in counts.items()}
    return found if all(map(math.isfinite, found.values())) else {}
