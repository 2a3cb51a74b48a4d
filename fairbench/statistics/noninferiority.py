"""Exact one-sided tests of the hypothesis "the accuracy has dropped by at most max_drop".

Both tests order outcomes by a score statistic. The p-value is the largest probability of an outcome at least as extreme
as the observed one, over all values of the nuisance share. That share is first confined to a confidence interval, and
the probability `CONFINED` that it lies outside is added (Berger and Boos 1994). Therefore the false alarms of a test at
alpha are at most alpha for any number of images, at any drop up to max_drop.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from fairbench.errors import InvalidInput
from fairbench.statistics.intervals import clopper_pearson

__all__ = [
    "SELECTED",
    "paired_drop_test",
    "paired_score",
    "restricted_won",
    "two_sample_drop_test",
    "two_sample_score",
    "worst_drop_test",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

CONFINED = 1e-10  # the smallest possible p, far below the share of alpha of any check
GRID = 101
ROUNDING = 1e-12
SELECTED = 0.8  # the share of alpha of the baseline's worst class; the other classes divide the rest


def paired_drop_test(lost: int, won: int, n: int, max_drop: float = 0.0) -> float:
    """Return the p-value of "the accuracy on n images has dropped by at most max_drop", paired.

    `lost` images were right before and are wrong now, `won` images the other way round; max_drop is a fraction in [0,
    1). With max_drop 0 this is McNemar's exact one-sided test, otherwise the exact unconditional test with the score
    statistic (Hsueh, Liu and Chen 2001). Raises InvalidInput for counts that n images cannot have.
    """
    if min(lost, won) < 0 or n < 1 or lost + won > n:
        raise InvalidInput(f"{lost} lost and {won} won of {n} images is impossible")
    _check(max_drop)
    if (lost - won) / n <= max_drop + ROUNDING:
        return 1.0
    if max_drop == 0:
        return float(binom.sf(lost - 1, lost + won, 0.5))
    seen = float(paired_score(lost, won, n, max_drop))
    low, high = (float(bound) for bound in clopper_pearson(won, n, CONFINED))
    shares = np.linspace(low, min(high, (1 - max_drop) / 2), GRID)
    wins = _likely(n, shares)
    fewest = _fewest(lambda count: paired_score(count, wins, n, max_drop), n - wins, seen)
    # The probability, at the edge of the hypothesis, that an image which is not won is lost.
    edge = np.minimum((shares + max_drop) / (1 - shares), 1.0)
    tails = np.asarray(binom.pmf(wins, n, shares[:, None])) * binom.sf(fewest - 1, n - wins, edge[:, None])
    return min(1.0, float(tails.sum(axis=1).max()) + CONFINED)


def two_sample_drop_test(before: int, n_before: int, after: int, n_after: int, max_drop: float = 0.0) -> float:
    """Return the p-value of "the share has dropped by at most max_drop", from the right images of both sides.

    The samples are assumed to be independent. If they are the same images the test is conservative, because the right
    images of two checkpoints are positively correlated. It is the exact unconditional test with the score statistic
    (Chan 1998). Raises InvalidInput for impossible counts.
    """
    for right, total in ((before, n_before), (after, n_after)):
        if not 0 <= right <= total or total < 1:
            raise InvalidInput(f"{right} right of {total} images is impossible")
    _check(max_drop)
    if before / n_before - after / n_after <= max_drop + ROUNDING:
        return 1.0
    seen = float(two_sample_score(before, n_before, after, n_after, max_drop))
    low, high = (float(bound) for bound in clopper_pearson(after, n_after, CONFINED))
    shares = np.linspace(low, min(high, 1 - max_drop), GRID)
    rights = _likely(n_after, shares)
    fewest = _fewest(
        lambda count: two_sample_score(count, n_before, rights, n_after, max_drop), np.full_like(rights, n_before), seen
    )
    tails = np.asarray(binom.pmf(rights, n_after, shares[:, None])) * binom.sf(
        fewest - 1, n_before, shares[:, None] + max_drop
    )
    return min(1.0, float(tails.sum(axis=1).max()) + CONFINED)


def worst_drop_test(
    before: ArrayLike, after: ArrayLike, counts: ArrayLike, both: ArrayLike | None = None, max_drop: float = 0.0
) -> float:
    """Return the p-value of "the worst class has not dropped".

    The hypothesis says that the baseline's worst class has dropped by at most max_drop, and that no other class now
    lies more than max_drop below every class of the baseline. before, after and counts are integers [C]: right images
    on either side, and images. both [C] are the images right on both sides, for a paired test; None for two samples.
    The class with the lowest accuracy before gets the share SELECTED of alpha. Its selection costs no false alarms: a
    class is selected for a low accuracy before, which makes its drop look smaller. Any other class must lie below each
    class of the baseline (an intersection-union test over these, Bonferroni over classes). Classes without images are
    left out; raises InvalidInput if none has any.
    """
    old, new, images = (np.asarray(values, dtype=np.int64) for values in (before, after, counts))
    present = [int(label) for label in np.flatnonzero(images > 0)]
    if not present:
        raise InvalidInput("no class has an image, so there is no worst class")
    lowest_first = sorted(present, key=lambda label: old[label] / images[label])
    worst = lowest_first[0]
    if both is None:
        found = two_sample_drop_test(old[worst], images[worst], new[worst], images[worst], max_drop)
    else:
        kept = int(np.asarray(both)[worst])
        found = paired_drop_test(old[worst] - kept, new[worst] - kept, images[worst], max_drop)
    if len(present) == 1:
        return found
    found, weight = found / SELECTED, (1 - SELECTED) / len(present)
    # Among classes with equal numbers of images the lowest has the largest p: fewer right images give a smaller score.
    strictest = {images[label]: label for label in reversed(lowest_first)}.values()
    for label in lowest_first[1:]:
        highest = 0.0
        for other in strictest:
            p = two_sample_drop_test(old[other], images[other], new[label], images[label], max_drop)
            highest = max(highest, p)
            if highest >= found * weight:
                break
        else:
            found = highest / weight
    return min(1.0, found)


def paired_score(lost: ArrayLike, won: ArrayLike, n: int, drop: float) -> FloatArray:
    """Return the score statistic of "the drop is `drop`", about standard normal, positive if more is lost.

    The variance is that of the maximum-likelihood shares with this drop. Source: Tango 1998, eq. 3.
    """
    lost, won = np.asarray(lost, dtype=np.float64), np.asarray(won, dtype=np.float64)
    variance = n * (2 * restricted_won(lost, won, n, drop) + drop * (1 - drop))
    return _ratio(lost - won - n * drop, variance)


def restricted_won(lost: ArrayLike, won: ArrayLike, n: int, drop: float) -> FloatArray:
    """Return the maximum-likelihood share of won images given the drop; the share of lost images is larger by the drop.

    It is the root of 2 n q² - b q - won drop (1 - drop), b = lost (1 + drop) + won (1 - drop) - 2 n drop (Tango 1998).
    """
    lost, won = np.asarray(lost, dtype=np.float64), np.asarray(won, dtype=np.float64)
    b = lost * (1 + drop) + won * (1 - drop) - 2 * n * drop
    root: FloatArray = (np.sqrt(np.maximum(b * b + 8 * n * won * drop * (1 - drop), 0)) + b) / (4 * n)
    return np.clip(root, max(0.0, -drop), (1 - drop) / 2)


def two_sample_score(before: ArrayLike, n_before: int, after: ArrayLike, n_after: int, drop: float) -> FloatArray:
    """Return the score statistic of "the share has dropped by `drop`", positive for a larger drop, element by element.

    The variance is that of the maximum-likelihood shares which differ by the drop, from the closed form of the cubic.
    Source: Farrington and Manning 1990, appendix.
    """
    one = np.asarray(before, dtype=np.float64) / n_before
    other = np.asarray(after, dtype=np.float64) / n_after
    ratio = n_after / n_before
    a = 1 + ratio
    b = -(1 + ratio + one + ratio * other + drop * (ratio + 2))
    c = drop * drop + drop * (2 * one + ratio + 1) + one + ratio * other
    d = -one * drop * (1 + drop)
    v = b**3 / (3 * a) ** 3 - b * c / (6 * a * a) + d / (2 * a)
    u = np.copysign(np.sqrt(np.maximum(b * b / (3 * a) ** 2 - c / (3 * a), 0)), v)
    cosine = np.divide(v, u**3, out=np.ones_like(v), where=np.abs(u) > 1e-12)
    angle = (np.pi + np.arccos(np.clip(cosine, -1, 1))) / 3
    first = np.clip(2 * u * np.cos(angle) - b / (3 * a), drop, 1)
    second = np.clip(first - drop, 0, 1)
    return _ratio(one - other - drop, first * (1 - first) / n_before + second * (1 - second) / n_after)


def _ratio(difference: FloatArray, variance: FloatArray) -> FloatArray:
    """Return difference / sqrt(variance), infinite with the sign of the difference if the variance is 0."""
    limit = np.where(np.abs(difference) < ROUNDING, 0.0, np.copysign(np.inf, difference))
    positive = variance > 1e-15
    return np.where(positive, difference / np.sqrt(np.where(positive, variance, 1.0)), limit)


def _likely(n: int, shares: FloatArray) -> IntArray:
    """Return the counts, out of n, that have a relevant probability under any of the shares."""
    low = int(binom.ppf(1e-12, n, shares[0]))
    high = int(binom.isf(1e-12, n, shares[-1]))
    return np.arange(max(low, 0), min(high, n) + 1)


def _fewest(score: Callable[[IntArray], FloatArray], most: IntArray, seen: float) -> IntArray:
    """Return for each element the smallest count whose score reaches the observed one, most + 1 if none does.

    It uses bisection, since a score increases with the count. The margin keeps rounding from excluding the observed
    outcome.
    """
    low, high = np.zeros_like(most), most + 1
    while np.any(low < high):
        middle = (low + high) // 2
        reached = score(np.minimum(middle, most)) >= seen - 1e-9
        high = np.where(reached & (low < high), middle, high)
        low = np.where(reached | (low >= high), low, middle + 1)
    return low


def _check(max_drop: float) -> None:
    if not 0 <= max_drop < 1:
        raise InvalidInput(f"the tolerated drop must be a fraction in [0, 1), not {max_drop!r}")
