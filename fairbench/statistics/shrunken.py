"""Estimates of the lowest true class accuracy of a model, without the downward bias of the minimum.

The minimum of several estimated accuracies is biased low. A hierarchical model corrects this: the true accuracies of a
model's classes come from one beta distribution or, with probability one tenth, from the uniform distribution on [0, 1];
the number of right images of a class is binomial. Each class is thereby shrunk towards the mean of all, more so with
fewer images and more similar classes. `docs/simulations/worst_class.py` prints bias, error and coverage.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaln
from scipy.stats import t

from fairbench.errors import InvalidInput
from fairbench.statistics.intervals import worst_intervals
from fairbench.statistics.moderated import Spread, pair_variance

__all__ = ["method_worst", "true_worst"]

FloatArray = NDArray[np.float64]

# Concentrations of the beta distribution, in images: from nearly unrelated to nearly equal classes.
STRENGTHS = 2.0 ** np.arange(0, 15, 2)
APART = 0.1  # probability that a class does not belong to the beta distribution
NODES, WEIGHTS = np.polynomial.legendre.leggauss(60)


def true_worst(correct: ArrayLike, counts: ArrayLike) -> FloatArray:
    """Return the posterior mean of the lowest true class accuracy of each model, float64 [R].

    correct is int [R, C], one model per row, counts int [C]; classes without images are left out. The mean of the beta
    distribution is the model's average accuracy; its concentration has a posterior on the grid `STRENGTHS`, with equal
    prior weights. Raises InvalidInput if no class has an image.
    """
    right, images = np.asarray(correct, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if right.ndim != 2 or right.shape[1:] != images.shape or not np.any(images > 0):
        raise InvalidInput(f"right images must be rows of classes with images, not {right.shape} of {images.tolist()}")
    right, images = right[:, images > 0], images[images > 0]
    centre = ((right.sum(axis=1) + 0.5) / (images.sum() + 1))[:, None]
    up, down = STRENGTHS[:, None] * centre[:, None], STRENGTHS[:, None] * (1 - centre[:, None])
    a, b = up + right[:, None], down + (images - right)[:, None]
    together = np.log(1 - APART) + betaln(a, b) - betaln(up, down)
    alone = np.log(APART) + betaln(right + 1, images - right + 1)[:, None]
    evidence = np.logaddexp(together, alone)
    share_alone = np.exp(alone - evidence)[..., None]
    weight = evidence.sum(axis=-1)
    weight = np.exp(weight - weight.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    # The mean of the minimum is the integral of its survival function, which is 1 below `low` and 0 above `high`.
    share, error = right / images, 6 * np.sqrt(0.25 / images)
    low = np.maximum(0.0, (share - error).min(axis=1))
    high = np.minimum(1.0, (np.maximum(share, centre) + error).min(axis=1))
    points = low[:, None] + (high - low)[:, None] * (NODES + 1) / 2
    below = betainc(a[..., None], b[..., None], points[:, None, None])
    apart = betainc((right + 1)[..., None], (images - right + 1)[..., None], points[:, None])[:, None]
    above = np.prod(1 - (1 - share_alone) * below - share_alone * apart, axis=2)
    mean: FloatArray = low + np.einsum("rk,rkt,t->r", weight, above, WEIGHTS) * (high - low) / 2
    return mean


def method_worst(
    correct: ArrayLike, counts: ArrayLike, spread: Spread, alpha: float = 0.05
) -> tuple[float, float, float]:
    """Return the mean over seeds of a method's lowest true class accuracy, and its interval for new seeds and images.

    correct is int [S, C], one seed per row; spread is the leaderboard's spread of the worst class over seeds. The
    estimate is the mean of `true_worst`. The interval combines two intervals as for a sum (Zou and Donner 2008): the
    exact interval of the worst class, which more seeds do not narrow because all seeds see the same images, and the t
    interval of the mean over seeds. With a single seed it is the first interval, which holds the seed fixed.
    """
    right, images = np.asarray(correct, dtype=np.int64), np.asarray(counts, dtype=np.int64)
    estimates, seeds = true_worst(right, images), len(right)
    centre = float(estimates.mean())
    lows, highs = worst_intervals(right, images, alpha)
    down, up = max(0.0, centre - float(lows.mean())), max(0.0, float(highs.mean()) - centre)
    if seeds > 1:
        present = images > 0
        own = float((right[:, present] / images[present]).min(axis=1).var(ddof=1))
        variance = float(pair_variance(own, own, spread.variance))
        reach = float(t.isf(alpha / 2, max(spread.freedom, seeds - 1))) * (variance / seeds) ** 0.5
        down, up = float(np.hypot(down, reach)), float(np.hypot(up, reach))
    return centre, max(0.0, centre - down), min(1.0, centre + up)
