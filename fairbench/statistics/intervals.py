"""Exact confidence intervals for shares of images, and for the worst of several shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainccinv, betaincinv

from fairbench.errors import InvalidInput

__all__ = ["clopper_pearson", "worst_intervals"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def clopper_pearson(successes: ArrayLike, trials: ArrayLike, alpha: float = 0.05) -> tuple[FloatArray, FloatArray]:
    """Return the exact two-sided interval of a binomial share at level 1 - alpha, element by element.

    successes and trials are integers that broadcast together; both bounds are float64 of the broadcast shape, and nan
    where there were no trials. Raises InvalidInput if not 0 <= successes <= trials or alpha is not inside (0, 1).
    Source: Clopper and Pearson 1934, as quantiles of the beta distribution.
    """
    _check(alpha)
    k, n = _pair("successes", successes, "trials", trials)
    if np.any(k < 0) or np.any(k > n):
        where = int(np.flatnonzero((k < 0) | (k > n))[0])
        raise InvalidInput(f"{k.flat[where]} successes in {n.flat[where]} trials (element {where}) is impossible")
    # The beta parameters must be positive, so the ends at 0 and 1 are computed for the next count and then replaced.
    lo = np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1, alpha / 2), 0.0)
    hi = np.where(k < n, betainccinv(k + 1, np.maximum(n - k, 1), alpha / 2), 1.0)
    return np.where(n > 0, lo, np.nan), np.where(n > 0, hi, np.nan)


def worst_intervals(
    correct: ArrayLike, counts: ArrayLike, alpha: float = 0.05, *, corrected_below: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Return the interval of the lowest true class accuracy of each row, at level 1 - alpha.

    correct is int [..., C], counts [C]; both bounds are float64 [...]. Classes without images are left out, also of C.
    The lower bound is the minimum over classes of lower bounds at alpha / 2: it is too high only if the bound of the
    truly worst class is too high. The upper bound is the minimum of upper bounds at alpha / (2 C): it is too low if the
    bound of any class is too low. With `corrected_below` the lower bounds are at alpha / (2 C) too, as on leaderboards
    of schema 2. The model is held fixed. Raises InvalidInput as `clopper_pearson` does, and if no class has an image.
    """
    _check(alpha)
    k, n = np.atleast_1d(*_pair("correct", correct, "counts", counts))
    present = n.reshape(-1, n.shape[-1])[0] > 0 if n.size else np.zeros(0, np.bool_)
    if not present.any():
        raise InvalidInput("no class has an image, so there is no worst class")
    shared = alpha / int(present.sum())
    lo, _ = clopper_pearson(k, n, shared if corrected_below else alpha)
    _, hi = clopper_pearson(k, n, shared)
    return lo[..., present].min(axis=-1), hi[..., present].min(axis=-1)


def _check(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise InvalidInput(f"alpha must lie between 0 and 1, not {alpha!r}")


def _pair(name: str, values: ArrayLike, other_name: str, others: ArrayLike) -> tuple[IntArray, IntArray]:
    one, other = np.asarray(values), np.asarray(others)
    for label, array in ((name, one), (other_name, other)):
        if array.dtype.kind not in "iu":
            raise InvalidInput(f"{label} must be whole numbers, not {array.dtype}")
    try:
        one, other = np.broadcast_arrays(one, other)
    except ValueError:
        raise InvalidInput(f"{name} has shape {one.shape}, {other_name} {other.shape}: they do not match") from None
    return one.astype(np.int64), other.astype(np.int64)
