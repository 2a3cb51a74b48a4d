"""The division of alpha among the figures of one call, and over the runs of a repeated gate.

The gate fails if any p is at most its own share of alpha. If no figure has dropped by more than the tolerance, this has
probability at most alpha, because the shares sum to 1 (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairbench.errors import InvalidInput

__all__ = ["SHARES", "adjusted", "share", "spent"]

MAX_RUNS = 10**6
SHARES = {"worst": 0.25, "average": 0.25, "class": 0.5}


def share(metric: str, metrics: Sequence[str], members: int) -> float:
    """Return the share of alpha of one of the `members` hypotheses of a metric, if these metrics are checked.

    SHARES is scaled to the given metrics: "worst" alone gets all of alpha.
    """
    return SHARES[metric] / sum(SHARES[name] for name in metrics) / members


def adjusted(p: ArrayLike, shares: ArrayLike) -> NDArray[np.float64]:
    """Return the p-values adjusted by Holm's procedure with weights, float64 [K]: those at most alpha are rejected.

    p and shares are vectors [K]; the shares are positive and sum to 1. With equal shares it is Holm's procedure.
    Raises InvalidInput for other vectors. Source: Holm 1979, section 3.
    """
    values, weights = np.asarray(p, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    if values.ndim != 1 or values.shape != weights.shape or not np.all((values >= 0) & (values <= 1)):
        raise InvalidInput(f"p-values must be a vector of numbers in [0, 1] with a share each, not {values}")
    if not np.all(weights > 0) or abs(float(weights.sum()) - 1) > 1e-9:
        raise InvalidInput(f"shares of alpha must be positive and sum to 1, not {weights}")
    order = np.argsort(values / weights, kind="stable")
    left = np.cumsum(weights[order][::-1])[::-1]  # the shares of the hypotheses that are not rejected yet
    stepped = np.maximum.accumulate(values[order] / weights[order] * left)
    found = np.empty_like(values)
    found[order] = np.minimum(stepped, 1.0)
    return found


def spent(alpha: float, runs: int) -> float:
    """Return the level of each of the planned runs of a gate: alpha / runs.

    The probability of a false alarm in any of these runs is at most alpha, under any dependence (linear alpha spending,
    by Bonferroni). Raises InvalidInput unless runs is between 1 and MAX_RUNS.
    """
    if not 1 <= runs <= MAX_RUNS:
        raise InvalidInput(f"the planned runs of a gate must be 1 to {MAX_RUNS}, not {runs!s:.12}")
    return alpha / runs
