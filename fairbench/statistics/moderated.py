"""Comparison of methods over seeds with a moderated variance, to which all methods of a leaderboard contribute.

Three seeds estimate the variance of one method's figure poorly. The tests therefore average it with the typical
variance of the leaderboard, and never use less than the method's own. A method whose classes vary much more over seeds
than those of the other methods is given a variance to match. Seeds are not paired: seed 0 of two methods shares an
initialisation, which explains about 5 % of the variance. Every function holds the test images fixed.

`docs/simulations/comparison.py` prints the false alarms and the power of these tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import chi2, norm, t

from fairbench.errors import InvalidInput
from fairbench.statistics.significance import MIN_SEEDS

__all__ = [
    "ModeratedTest",
    "Spread",
    "board_spread",
    "class_ratio",
    "difference_detectable",
    "middle_variance",
    "moderated_test",
    "pair_variance",
    "typical_variance",
]

FloatArray = NDArray[np.float64]
NODES = 400  # quantiles of a variance over which the power is averaged
WIDE = 2.25  # mean ratio of class variances, spread 1.5 times as large; equal methods exceed it in 1 % of cases


@dataclass(frozen=True)
class Spread:
    """The spread of one figure over seeds on a leaderboard: the variance of a run, typical and median, and its freedom.

    `variance` is that of `typical_variance`, `middle` that of `middle_variance`, and `freedom` the sum of the methods'
    degrees of freedom.
    """

    variance: float
    freedom: int
    middle: float = 0.0


@dataclass(frozen=True)
class ModeratedTest:
    """The two-sided p-value of "both means are equal", and the 95 % interval of their difference a - b."""

    p: float
    low: float
    high: float


def typical_variance(variances: ArrayLike, freedom: ArrayLike) -> FloatArray:
    """Return the typical variance of methods with variances [..., M] and degrees of freedom [M], float64 [...].

    It is the root mean square of the variances, corrected for the chi-square noise of each. It equals the variance of
    the methods if they share one; otherwise it leans to the larger ones, which keeps the false alarms of methods with a
    large spread low. Variances of 0 are left out: a figure that stays at 0 % says nothing about spread.
    """
    own, degrees = np.asarray(variances, dtype=np.float64), np.asarray(freedom, dtype=np.float64)
    informs = own > 0
    total = np.sum(np.where(informs, own**2 / (1 + 2 / degrees), 0.0), axis=-1)
    root: FloatArray = np.sqrt(total / np.maximum(informs.sum(axis=-1), 1))
    return root


def middle_variance(variances: ArrayLike, freedom: ArrayLike) -> FloatArray:
    """Return the median variance of methods with variances [..., M] and degrees of freedom [M], float64 [...].

    Each variance is divided by the ratio of median to mean of a chi-square variable, so that the median estimates the
    variance of equal methods. A few methods with a large spread do not change it. Variances of 0 are left out; without
    any other the result is 0.
    """
    own, degrees = np.asarray(variances, dtype=np.float64), np.asarray(freedom, dtype=np.float64)
    ordered = np.sort(np.where(own > 0, own * degrees / chi2.median(degrees), np.inf), axis=-1)
    known = np.isfinite(ordered).sum(axis=-1, keepdims=True)
    low, high = (np.clip((known - step) // 2, 0, ordered.shape[-1] - 1) for step in (1, 0))
    ends = [np.take_along_axis(ordered, index, axis=-1)[..., 0] for index in (low, high)]
    middle: FloatArray = np.where(known[..., 0] > 0, (ends[0] + ends[1]) / 2, 0.0)
    return middle


def class_ratio(own: ArrayLike, middle: ArrayLike) -> float:
    """Return how far a method's classes vary over seeds relative to those of the other methods: 1 if equally.

    own [C] are the variances of the method's class accuracies over seeds, middle [C] the `middle_variance` of each
    class on the leaderboard. The result is the mean ratio of the two. Classes whose middle is 0 are left out; without
    any other the result is 1.
    """
    ours, others = np.asarray(own, dtype=np.float64), np.asarray(middle, dtype=np.float64)
    informs = others > 0
    return float(np.mean(ours[informs] / others[informs])) if informs.any() else 1.0


def pair_variance(first: ArrayLike, second: ArrayLike, typical: ArrayLike) -> FloatArray:
    """Return the variance of one run in a test of two methods, element by element.

    Each method's variance is averaged with the typical one, and is at least its own; the larger of the two counts.
    """
    larger = np.maximum(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64))
    return np.maximum(larger, (larger + np.asarray(typical, dtype=np.float64)) / 2)


def board_spread(runs: Iterable[ArrayLike]) -> Spread:
    """Return the spread over seeds of a figure on a leaderboard, from the figures [S] of every method's runs.

    Methods with a single run, or with the same figure in every run, are left out. Without any other method the
    variances are 0.
    """
    samples = [np.asarray(one, dtype=np.float64) for one in runs]
    found = [(float(one.var(ddof=1)), len(one) - 1) for one in samples if len(one) > 1]
    found = [(variance, degrees) for variance, degrees in found if variance > 1e-16]
    if not found:
        return Spread(0.0, 0)
    variances, freedom = zip(*found, strict=True)
    return Spread(float(typical_variance(variances, freedom)), sum(freedom), float(middle_variance(variances, freedom)))


def moderated_test(
    a: ArrayLike,
    b: ArrayLike,
    spread: Spread,
    *,
    one_of_many: bool = False,
    ratios: tuple[float, float] = (1.0, 1.0),
    alpha: float = 0.05,
) -> ModeratedTest:
    """Return the test of equal means of two methods' figures over seeds, float [S] each, on a leaderboard.

    It is a t-test with `pair_variance` and the leaderboard's degrees of freedom, at least those of the pair. `ratios`
    are the two methods' `class_ratio`. If one exceeds WIDE, the variance is at least this ratio times the median
    variance of the leaderboard, unless the method's figure is the same in all seeds, such as a worst class at 0 %. A
    method has many classes, so their ratio shows a large spread that three worst classes cannot show. If the test is
    `one_of_many` whose p-values are corrected, the variance is at least the typical one, because the smallest p-values
    would otherwise come from pairs whose few seeds happen to agree. If nothing on the leaderboard varies, p is the
    share of sign flips that are as extreme. Raises InvalidInput below three seeds a method.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    for one in (first, second):
        if one.ndim != 1 or len(one) < MIN_SEEDS or not np.all(np.isfinite(one)):
            raise InvalidInput(f"a test over seeds needs {MIN_SEEDS} finite figures a method, not {one.tolist()}")
    difference = float(first.mean() - second.mean())
    own = [float(one.var(ddof=1)) for one in (first, second)]
    variance = float(pair_variance(own[0], own[1], spread.variance))
    wide = [ratio for ratio, found in zip(ratios, own, strict=True) if ratio > WIDE and found > 1e-16]
    variance = max(variance, max(wide, default=0.0) * spread.middle)
    if one_of_many:
        variance = max(variance, spread.variance)
    error = float(np.sqrt(variance * (1 / len(first) + 1 / len(second))))
    if error <= 1e-12:
        same = abs(difference) <= 1e-12
        return ModeratedTest(1.0 if same else min(1.0, 2 * 0.5 ** min(len(first), len(second))), difference, difference)
    freedom = max(spread.freedom, len(first) + len(second) - 2)
    reach = float(t.isf(alpha / 2, freedom)) * error
    return ModeratedTest(float(2 * t.sf(abs(difference) / error, freedom)), difference - reach, difference + reach)


def difference_detectable(spread: Spread, seeds: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true difference that one two-sided `moderated_test` detects with this power.

    Both methods have `seeds` seeds and the leaderboard's typical variance. The power is exact for normal figures and a
    known typical variance. Where nothing varies sign flips judge: any difference is detected, or with few seeds none,
    which is infinite. Raises InvalidInput below three seeds.
    """
    if seeds < MIN_SEEDS:
        raise InvalidInput(f"a test over seeds needs {MIN_SEEDS} seeds, not {seeds}")
    if spread.variance == 0:
        return 0.0 if 2 * 0.5**seeds <= alpha else math.inf
    own = seeds - 1
    # The larger of two chi-squares has the square of their distribution function.
    larger = chi2.ppf(np.sqrt((np.arange(NODES) + 0.5) / NODES), own) / own
    critical = float(t.isf(alpha / 2, max(spread.freedom, 2 * own)))
    edge = critical * np.sqrt(pair_variance(larger, 0.0, 1.0))

    def lacking(shift: float) -> float:
        return float(np.mean(norm.sf(edge - shift) + norm.sf(edge + shift))) - power

    return float(brentq(lacking, 0.0, float(edge.max()) + 10)) * float(np.sqrt(2 * spread.variance / seeds))
