"""Tiers: which methods seeds can tell from the best, when the best was picked by looking."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import studentized_range

from fairbench.errors import InvalidInput
from fairbench.statistics.significance import MIN_SEEDS

__all__ = ["tiers"]


def tiers(values: ArrayLike, alpha: float = 0.05) -> list[int]:
    """Return the tier of each method from a figure, higher is better, by method and seed, float [M, S].

    Tier 1 holds the best mean and all whose distance from it is not significant, tier 2 the same among the rest. A
    distance counts beyond Tukey's studentized range of all M methods, because the best of many is partly the luckiest;
    its deviation is that of the methods pooled, with seeds as blocks, or that of the pair itself where that is larger.
    Raises InvalidInput below three seeds. Source: Tukey 1949; `docs/simulations/tiers.py` has the false alarms.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or not table.size or table.shape[1] < MIN_SEEDS or not np.all(np.isfinite(table)):
        raise InvalidInput(f"tiers need a figure of every method for {MIN_SEEDS} seeds, not an array {table.shape}")
    methods, seeds = table.shape
    if methods == 1:
        return [1]
    means, freedom = table.mean(axis=1), (methods - 1) * (seeds - 1)
    residuals = table - table.mean(axis=0) - means[:, None] + table.mean()
    pooled = float(np.sum(residuals**2)) / freedom
    factor = _range(alpha, methods, freedom) / seeds**0.5
    found, rest, tier = np.zeros(methods, dtype=np.int64), np.arange(methods), 0
    while len(rest):
        tier += 1
        best = rest[np.argmax(means[rest])]
        own = (table[best] - table[rest]).var(axis=1, ddof=1) / 2
        near = means[best] - means[rest] <= factor * np.sqrt(np.maximum(pooled, own))
        found[rest[near]] = tier
        rest = rest[~near]
    return [int(one) for one in found]


@cache
def _range(alpha: float, methods: int, freedom: int) -> float:
    """The quantile is an integral that takes a tenth of a second."""
    return float(studentized_range.isf(alpha, methods, freedom))
