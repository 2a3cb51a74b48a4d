"""Rank intervals of a leaderboard's methods, and estimates of their worst classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairbench.leaderboard.classes import class_columns
from fairbench.leaderboard.columns import AGGREGATES
from fairbench.leaderboard.detection import spread_of
from fairbench.statistics.moderated import Spread
from fairbench.statistics.ranks import behind_the_best, pair_errors, rank_intervals
from fairbench.statistics.shrunken import method_worst
from fairbench.statistics.significance import MIN_SEEDS

__all__ = ["PLACES", "places", "worst_estimates"]

PLACES = {
    "rank_lo": "Int64",
    "rank_hi": "Int64",
    "rank_new_lo": "Int64",
    "rank_new_hi": "Int64",
    "behind_best": "string",
}
NOT_BEHIND, HERE, ANYWHERE = "no", "seeds", "images"
FEW_CLASSES = 20  # number of classes up to which the mean of the lowest two and three is shown

FloatArray = NDArray[np.float64]


def places(under: pd.DataFrame, methods: Sequence[str], by: str, rising: bool) -> pd.DataFrame:
    """Return `PLACES` of the ranked methods that have three seeds, by method, from the rows under one attack.

    `rank_lo` to `rank_hi` is a 95 % interval of a method's rank by its mean over all seeds, on these images;
    `rank_new_lo` to `rank_new_hi` is one of its rank on new images, if the figure is an accuracy. `behind_best` says
    whether another method is significantly higher: `no`, over `seeds` on these images, or over seeds and `images`; the
    probability that this is wrong for any method of the leaderboard is at most 5 %. Methods without three seeds may
    have any rank.
    """
    runs = under[~under["seed"].isin(AGGREGATES) & under["method"].isin(list(methods)) & under[by].notna()]
    groups = {str(name): rows for name, rows in runs.groupby("method") if len(rows) >= MIN_SEEDS}
    if not groups:
        return pd.DataFrame(columns=[*PLACES])
    spread = spread_of(runs, by)
    figures = [rows[by].to_numpy(dtype=np.float64) for rows in groups.values()]
    means = np.array([one.mean() for one in figures]) * (-1 if rising else 1)
    variances, seeds = [one.var(ddof=1) for one in figures], [len(one) for one in figures]
    drawn = _drawn(runs, by, means)
    here = pair_errors(variances, seeds, spread.variance)
    behind = np.where(behind_the_best(means, here, spread.freedom), HERE, NOT_BEHIND)
    first, last = rank_intervals(means, here, spread.freedom)
    unknown = len(methods) - len(groups)
    table = {"rank_lo": first, "rank_hi": last + unknown}
    if drawn is not None:
        anywhere = pair_errors(variances, seeds, spread.variance, drawn)
        behind = np.where(behind_the_best(means, anywhere, spread.freedom), ANYWHERE, behind)
        first, last = rank_intervals(means, anywhere, spread.freedom)
        table |= {"rank_new_lo": first, "rank_new_hi": last + unknown}
    return pd.DataFrame({**table, "behind_best": behind}, index=list(groups)).reindex(columns=[*PLACES])


def worst_estimates(under: pd.DataFrame) -> pd.DataFrame:
    """Return `true_worst`, `true_worst_lo`, `true_worst_hi`, `worst2` and `worst3` of each method, one row per method.

    The first three are those of `fairbench.statistics.shrunken.method_worst`. The last two are means over seeds of the
    mean of the lowest two and three classes, if there are more classes than that and at most 20.
    """
    runs = under[~under["seed"].isin(AGGREGATES)]
    classes = class_columns(list(runs))
    counted = [f"n_{name}" for name in classes]
    names = ["method", "true_worst", "true_worst_lo", "true_worst_hi", "worst2", "worst3"]
    if not classes or runs.empty or not set(counted) <= set(runs):
        return pd.DataFrame({name: pd.Series(dtype="object" if name == "method" else "float64") for name in names})
    spread = spread_of(runs, "worst")
    found = [(str(name), *_estimates(rows, classes, counted, spread)) for name, rows in runs.groupby("method")]
    return pd.DataFrame(found, columns=names)


def _estimates(rows: pd.DataFrame, classes: Sequence[str], counted: Sequence[str], spread: Spread) -> tuple[float, ...]:
    shares = rows[list(classes)].to_numpy(dtype=np.float64)
    counts = rows[list(counted)].to_numpy(dtype=np.float64)
    if np.isnan(counts).any() or (counts != counts[0]).any() or not counts[0].any():
        return (np.nan,) * 5
    present = counts[0] > 0
    right = np.rint(shares[:, present] * counts[:, present]).astype(np.int64)
    found = method_worst(right, counts[0, present].astype(np.int64), spread)
    ascending = np.sort(shares[:, present], axis=1)
    few = ascending.shape[1] <= FEW_CLASSES
    lowest = [ascending[:, :size].mean() if few and ascending.shape[1] > size else np.nan for size in (2, 3)]
    return (*found, *map(float, lowest))


def _drawn(runs: pd.DataFrame, by: str, means: FloatArray) -> FloatArray | None:
    """Return the variance of an accuracy's mean over seeds due to the sampling of images; None for other figures."""
    counts = {"average": ["n"], "worst": [f"n_{name}" for name in class_columns(list(runs))]}.get(by, [f"n_{by}"])
    if not counts or not set(counts) <= set(runs):
        return None
    images = runs[counts].iloc[0].to_numpy(dtype=np.float64)
    smallest = float(images[images > 0].min())
    share = (np.abs(means) * smallest + 0.5) / (smallest + 1)
    variance: FloatArray = share * (1 - share) / smallest
    return variance
