"""Estimates of the worst classes of a leaderboard's methods."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fairbench.leaderboard.classes import class_columns
from fairbench.leaderboard.columns import AGGREGATES
from fairbench.leaderboard.seed_spread import spread_of
from fairbench.statistics.moderated import Spread
from fairbench.statistics.shrunken import method_worst

__all__ = ["worst_estimates"]

FEW_CLASSES = 20  # number of classes up to which the mean of the lowest two and three is shown


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
