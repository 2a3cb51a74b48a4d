"""Tiers: which methods seeds can tell from the best, when the best was picked by looking."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import studentized_range

from fairbench.errors import InvalidInput
from fairbench.statistics.significance import MIN_SEEDS

__all__ = ["tiers"]


def tiers(values: ArrayLike, alpha: float = 0.05, *, ranks: ArrayLike | None = None) -> list[int]:
    """Return the tier of each method from a figure, higher is better, by method and seed, float [M, S].

    Tier 1 reaches from the best method down to the last one whose distance from it is not significant, tier 2 does the
    same among the rest: whoever is ranked below a method is never in a better tier, however far their seeds spread.
    `ranks` are places [M] that a board has given already, 1 the best; without them the means rank.

    A distance counts beyond Tukey's studentized range of all M methods, as the best of many is partly the luckiest; its
    deviation is that of the methods pooled, with seeds as blocks, or that of the pair itself where that is larger.
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
    rest = np.argsort(-means if ranks is None else np.asarray(ranks), kind="stable")
    found, tier = np.zeros(methods, dtype=np.int64), 0
    while len(rest):
        tier += 1
        best = rest[0]
        own = (table[best] - table[rest]).var(axis=1, ddof=1) / 2
        near = means[best] - means[rest] <= factor * np.sqrt(np.maximum(pooled, own))
        end = int(np.flatnonzero(near)[-1]) + 1
        found[rest[:end]] = tier
        rest = rest[end:]
    return [int(one) for one in found]


@cache
def _range(alpha: float, methods: int, freedom: int) -> float:
    """The quantile is an integral that takes a tenth of a second."""
    return float(studentized_range.isf(alpha, methods, freedom))
