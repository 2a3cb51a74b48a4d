"""Comparison of the worst classes of two checkpoints, which may be two different classes, on the same images."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairbench.errors import InvalidInput
from fairbench.statistics.intervals import worst_intervals
from fairbench.statistics.noninferiority import two_sample_drop_test
from fairbench.statistics.significance import mcnemar

__all__ = ["worst_difference_interval", "worst_difference_test"]

IntArray = NDArray[np.int64]


def worst_difference_test(first: ArrayLike, second: ArrayLike, both: ArrayLike, counts: ArrayLike) -> float:
    """Return the two-sided p-value of "the lowest class accuracies of two checkpoints are equal".

    first and second are the right images of each class, int [C], both the images right on both sides, counts the
    images. The first checkpoint's worst class is higher if some class of the second lies below every class of the
    first: an intersection-union test over the first's classes, Bonferroni over the second's. A class is compared with
    itself as paired (McNemar by mid-p), and with another class as two independent samples (exact unconditional test).
    Classes without images are left out. Raises InvalidInput if none has an image.
    """
    one, other, shared, images = (np.asarray(values, dtype=np.int64) for values in (first, second, both, counts))
    present = images > 0
    if not present.any():
        raise InvalidInput("no class has an image, so there is no worst class")
    one, other, shared, images = (values[present] for values in (one, other, shared, images))
    return min(1.0, 2 * min(_higher(one, other, shared, images), _higher(other, one, shared, images)))


def worst_difference_interval(
    first: ArrayLike, second: ArrayLike, counts: ArrayLike, alpha: float = 0.05
) -> tuple[float, float]:
    """Return an interval at level 1 - alpha of the first checkpoint's worst class minus the second's.

    It is the distance of the two exact intervals at level 1 - alpha / 2 each. It ignores that the images are the same
    and is therefore wide: it may contain 0 although the test finds a difference.
    """
    (low, high), (other_low, other_high) = (worst_intervals(side, counts, alpha / 2) for side in (first, second))
    return float(low - other_high), float(high - other_low)


def _higher(one: IntArray, other: IntArray, shared: IntArray, images: IntArray) -> float:
    """Return the one-sided p-value of "the worst class of `one` is not higher"."""
    best = 1.0
    for low in np.argsort(other / images, kind="stable"):
        p = mcnemar(int(one[low] - shared[low]), int(other[low] - shared[low]), alternative="greater", mid_p=True)
        for rival in np.argsort(one / images, kind="stable"):
            if p >= best:
                break
            if rival != low:
                p = max(p, two_sample_drop_test(int(one[rival]), int(images[rival]), int(other[low]), int(images[low])))
        best = min(best, p)
    return min(1.0, best * len(images))
