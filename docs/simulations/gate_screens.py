"""The gate's exact tests for simulations, which skip what is far from significant: the exact tests take long."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from fairbench.statistics.noninferiority import paired_drop_test, paired_score, two_sample_score, worst_drop_test

__all__ = ["MAX_DROP", "paired", "worst_p"]

IntArray = NDArray[np.int64]

MAX_DROP = 0.02
FAR = 1.6  # scores below it have p above 5 %


@cache
def paired(lost: int, won: int, images: int) -> float:
    """Return the p-value of the paired test, 1 if its score is below FAR."""
    if float(paired_score(lost, won, images, MAX_DROP)) < FAR:
        return 1.0
    return paired_drop_test(lost, won, images, MAX_DROP)


def worst_p(old: IntArray, lost: IntArray, won: IntArray, images: int) -> float:
    """Return the p-value of the worst class, 1 if all its scores are below FAR.

    `old` are the right images of each class before, `lost` and `won` those that changed, int64 [C].
    """
    after, worst = old - lost + won, int(old.argmin())
    own = float(paired_score(lost[worst], won[worst], images, MAX_DROP))
    below = two_sample_score(old[worst], images, np.delete(after, worst), images, MAX_DROP)
    if max(own, float(below.max())) < FAR:
        return 1.0
    return worst_drop_test(old, after, np.full(len(old), images), old - lost, MAX_DROP)
