"""The rank intervals of a leaderboard's methods, and which of them are behind the best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairbench.leaderboard.classes import class_columns
from fairbench.leaderboard.columns import AGGREGATES
from fairbench.leaderboard.seed_spread import spread_of
from fairbench.statistics.ranks import behind_the_best, pair_errors, rank_intervals
from fairbench.statistics.significance import MIN_SEEDS

__all__ = ["PLACES", "places"]

PLACES = {
    "rank_lo": "Int64",
    "rank_hi": "Int64",
    "rank_new_lo": "Int64",
    "rank_new_hi": "Int64",
    "behind_best": "string",
}
NOT_BEHIND, HERE, ANYWHERE = "no", "seeds", "images"

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
