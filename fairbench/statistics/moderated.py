"""Methods compared over seeds, with a variance that all methods of a board inform.

Three seeds say little of how far one method's figure spreads. Its variance is therefore averaged with the typical
variance of the board, and is never taken to be smaller than its own. Seeds are not paired: seed 0 of two methods shares
an initialisation, which explains about 5 % of the variance. Every function holds the test images fixed.

`docs/simulations/comparison.py` prints the false alarms and the power of these tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import chi2, norm, t

from fairbench.errors import InvalidInput
from fairbench.statistics.significance import MIN_SEEDS

__all__ = [
    "SeedTest",
    "Spread",
    "board_spread",
    "difference_detectable",
    "moderated_test",
    "pair_variance",
    "typical_variance",
]

FloatArray = NDArray[np.float64]
NODES = 400  # quantiles of a variance over which the power is averaged


@dataclass(frozen=True)
class Spread:
    """What a board tells of the spread of one figure over seeds: a run's typical variance and degrees of freedom."""

    variance: float
    freedom: int


@dataclass(frozen=True)
class SeedTest:
    """The two-sided p-value of "both means are equal", and the 95 % interval of their difference a - b."""

    p: float
    low: float
    high: float


def typical_variance(variances: ArrayLike, freedom: ArrayLike) -> FloatArray:
    """Return the typical variance of methods whose own are float [..., M], each with so many degrees of freedom [M].

    The root of the mean square of the variances, corrected for the chi-square noise of each: it equals the variance
    where all methods share one, and leans to the larger ones where they differ, so that a method that spreads more than
    others raises few false alarms. A variance of 0 is left out: a figure that stays at 0 % says nothing of spread.
    """
    own, degrees = np.asarray(variances, dtype=np.float64), np.asarray(freedom, dtype=np.float64)
    informs = own > 0
    total = np.sum(np.where(informs, own**2 / (1 + 2 / degrees), 0.0), axis=-1)
    root: FloatArray = np.sqrt(total / np.maximum(informs.sum(axis=-1), 1))
    return root


def pair_variance(first: ArrayLike, second: ArrayLike, typical: ArrayLike) -> FloatArray:
    """Return the variance of one run that a test of two methods uses, element by element.

    Each method's variance is averaged with the typical one and is at least its own; the larger of the two counts.
    """
    larger = np.maximum(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64))
    return np.maximum(larger, (larger + np.asarray(typical, dtype=np.float64)) / 2)


def board_spread(runs: Iterable[ArrayLike]) -> Spread:
    """Return the spread over seeds of a figure on a board, from the figures [S] of every method's runs.

    Methods with a single run, or with the same figure in every run, do not count. Without any other the variance is 0.
    """
    samples = [np.asarray(one, dtype=np.float64) for one in runs]
    found = [(float(one.var(ddof=1)), len(one) - 1) for one in samples if len(one) > 1]
    found = [(variance, degrees) for variance, degrees in found if variance > 1e-16]
    if not found:
        return Spread(0.0, 0)
    variances, freedom = zip(*found, strict=True)
    return Spread(float(typical_variance(variances, freedom)), sum(freedom))


def moderated_test(
    a: ArrayLike, b: ArrayLike, spread: Spread, *, one_of_many: bool = False, alpha: float = 0.05
) -> SeedTest:
    """Return the test of equal means of two methods' figures over seeds, float [S] each, beside a board's spread.

    A t-test with `pair_variance` and the board's degrees of freedom, at least the pair's own. As `one_of_many` tests
    whose p-values are corrected, the variance is at least the typical one: small p-values must not come from a pair
    whose few seeds happen to agree. Where nothing on the board varies, p is the share of sign flips that are as
    extreme. Raises InvalidInput below three seeds a method.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    for one in (first, second):
        if one.ndim != 1 or len(one) < MIN_SEEDS or not np.all(np.isfinite(one)):
            raise InvalidInput(f"a test over seeds needs {MIN_SEEDS} finite figures a method, not {one.tolist()}")
    difference = float(first.mean() - second.mean())
    variance = float(pair_variance(first.var(ddof=1), second.var(ddof=1), spread.variance))
    if one_of_many:
        variance = max(variance, spread.variance)
    error = float(np.sqrt(variance * (1 / len(first) + 1 / len(second))))
    if error <= 1e-12:
        same = abs(difference) <= 1e-12
        return SeedTest(1.0 if same else min(1.0, 2 * 0.5 ** min(len(first), len(second))), difference, difference)
    freedom = max(spread.freedom, len(first) + len(second) - 2)
    reach = float(t.isf(alpha / 2, freedom)) * error
    return SeedTest(float(2 * t.sf(abs(difference) / error, freedom)), difference - reach, difference + reach)


def difference_detectable(spread: Spread, seeds: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true difference that `moderated_test` finds with this power, two-sided, as one comparison.

    Both methods have `seeds` seeds and the board's typical variance. The power is exact for normal figures and a known
    typical variance. Raises InvalidInput below three seeds.
    """
    if seeds < MIN_SEEDS:
        raise InvalidInput(f"a test over seeds needs {MIN_SEEDS} seeds, not {seeds}")
    if spread.variance == 0:
        return 0.0
    own = seeds - 1
    # The larger of two chi-squares has the square of their distribution function.
    larger = chi2.ppf(np.sqrt((np.arange(NODES) + 0.5) / NODES), own) / own
    critical = float(t.isf(alpha / 2, max(spread.freedom, 2 * own)))
    edge = critical * np.sqrt(pair_variance(larger, 0.0, 1.0))

    def lacking(shift: float) -> float:
        return float(np.mean(norm.sf(edge - shift) + norm.sf(edge + shift))) - power

    return float(brentq(lacking, 0.0, float(edge.max()) + 10)) * float(np.sqrt(2 * spread.variance / seeds))
