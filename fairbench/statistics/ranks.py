"""Ranks with their uncertainty: intervals of ranks, and which methods are significantly below another one."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import studentized_range, t

from fairbench.errors import InvalidInput
from fairbench.statistics.significance import holm

__all__ = ["behind_the_best", "pair_errors", "rank_intervals"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def pair_errors(variances: ArrayLike, seeds: ArrayLike, typical: float, images: ArrayLike | None = None) -> FloatArray:
    """Return the standard error of the difference of every two methods' means, float64 [M, M], 0 on the diagonal.

    variances [M] are those of a method's runs over seeds, seeds [M] their numbers, `typical` the leaderboard's typical
    variance. A pair has the larger of its two variances, and at least the typical one: among the hundreds of pairs of a
    leaderboard some have few seeds that happen to agree, which is rare in a single test.

    images [M] are the variances of a method's mean due to the sampling of test images; without them the images are held
    fixed. They are assumed to be independent between methods. This is conservative: all methods see the same images,
    and an image that is hard for one method tends to be hard for another.
    """
    own, runs = np.asarray(variances, dtype=np.float64), np.asarray(seeds, dtype=np.float64)
    pairs = np.maximum(np.maximum(own[:, None], own[None, :]), typical)
    squared = pairs * (1 / runs[:, None] + 1 / runs[None, :])
    if images is not None:
        drawn = np.asarray(images, dtype=np.float64)
        squared = squared + drawn[:, None] + drawn[None, :]
    np.fill_diagonal(squared, 0.0)
    return np.sqrt(squared)


def rank_intervals(means: ArrayLike, errors: ArrayLike, freedom: int, alpha: float = 0.05) -> tuple[IntArray, IntArray]:
    """Return the first and the last rank that each method may truly have, int64 [M] each, 1 for the highest mean.

    means are float [M], errors the standard errors of differences [M, M]. Each method is tested against every other
    one. Holm's correction over these M - 1 tests gives every single method's interval coverage 1 - alpha. The first
    rank comes after all methods that are significantly higher, the last before all that are significantly lower.
    Source: Mogstad, Romano, Shaikh and Wilhelm, Review of Economic Studies 2024.
    """
    values, tests = _checked(means, errors)
    size = len(values)
    difference = values[:, None] - values[None, :]
    p = 2 * t.sf(np.abs(_over(difference, tests)), max(freedom, 1))
    first, last = np.ones(size, dtype=np.int64), np.full(size, size, dtype=np.int64)
    others = ~np.eye(size, dtype=np.bool_)
    for one in range(size):
        told = holm(p[one][others[one]]) <= alpha
        ahead = difference[one][others[one]] < 0
        first[one] += int(np.sum(told & ahead))
        last[one] -= int(np.sum(told & ~ahead))
    return first, last


def behind_the_best(means: ArrayLike, errors: ArrayLike, freedom: int, alpha: float = 0.05) -> BoolArray:
    """Return for each method [M] whether another one is significantly higher, corrected for all pairs of methods.

    The probability of any wrong statement is at most alpha, although the best method is selected by its figure: a
    difference is significant if it exceeds Tukey's studentized range over all methods. Sources: Tukey 1949; Kramer
    1956.
    """
    values, tests = _checked(means, errors)
    if len(values) == 1:
        return np.zeros(1, dtype=np.bool_)
    critical = _range(alpha, len(values), max(freedom, 1)) / np.sqrt(2)
    behind: BoolArray = np.any(_over(values[None, :] - values[:, None], tests) > critical, axis=1)
    return behind


def _checked(means: ArrayLike, errors: ArrayLike) -> tuple[FloatArray, FloatArray]:
    values, tests = np.asarray(means, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if values.ndim != 1 or not len(values) or tests.shape != (len(values), len(values)):
        raise InvalidInput(f"ranks need means [M] and errors [M, M], not {values.shape} and {tests.shape}")
    if not np.all(np.isfinite(values)) or not np.all(tests >= 0):
        raise InvalidInput("ranks need finite means, and errors of at least 0")
    return values, tests


def _over(difference: FloatArray, error: FloatArray) -> FloatArray:
    """Return the statistic of each pair: 0 if the means are equal, infinite if they differ and the error is 0."""
    alike = np.abs(difference) <= 1e-12
    scale = np.where(error > 0, error, 1.0)
    return np.where(alike, 0.0, np.where(error > 0, difference / scale, np.copysign(np.inf, difference)))


@cache
def _range(alpha: float, methods: int, freedom: int) -> float:
    """Return the quantile of the studentized range; it is cached because its integral takes a tenth of a second."""
    return float(studentized_range.isf(alpha, methods, freedom))
