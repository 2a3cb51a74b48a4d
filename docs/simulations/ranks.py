"""Print how often rank intervals hold the true rank, and how often a best method is called behind: `ranks.py`.

Boards of 20 methods with normal seeds; in the columns on new images each method's mean also has the sampling error of a
worst class of 20 % on n images, of which methods share half because they meet the same images. An interval holds the
truth if it holds every rank that ties allow. About half a minute.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fairbench.statistics.moderated import typical_variance
from fairbench.statistics.ranks import behind_the_best, pair_errors, rank_intervals

FloatArray = NDArray[np.float64]

SEED, DRAWS, METHODS = 20240, 400, 20
SHARE, COMMON = 0.20, 0.5
TRUTHS: dict[str, FloatArray] = {
    "all equal": np.zeros(METHODS),
    "evenly over 20 points": np.linspace(20, 0, METHODS),
    "three best, the rest 15 below": np.where(np.arange(METHODS) < 3, 15.0, 0.0),
}
SPREADS: dict[str, FloatArray] = {
    "4.5": np.full(METHODS, 4.5),
    "2.25 to 9": np.random.default_rng(SEED).permutation(np.geomspace(2.25, 9, METHODS)),
}


def row(truth: FloatArray, spreads: FloatArray, seeds: int, images: int | None, draws: int) -> tuple[float, ...]:
    """Return coverage over methods, that of the least covered one, mean width, boards with a wrong "behind best".

    `images` is the number of the worst class; None holds the images fixed.
    """
    rng, size = np.random.default_rng(SEED), len(truth)
    variance = 0.0 if images is None else 1e4 * SHARE * (1 - SHARE) / images
    held, widths, wrong = np.zeros(size), 0.0, 0
    best = truth >= truth.max()
    lowest = 1 + np.sum(truth[None, :] > truth[:, None], axis=1)
    highest = size - np.sum(truth[None, :] < truth[:, None], axis=1)
    for _ in range(draws):
        drawn = np.sqrt(variance * COMMON) * rng.standard_normal()
        drawn = drawn + np.sqrt(variance * (1 - COMMON)) * rng.standard_normal(size)
        values = (truth + drawn)[:, None] + spreads[:, None] * rng.standard_normal((size, seeds))
        variances, freedom = values.var(axis=1, ddof=1), size * (seeds - 1)
        typical = float(typical_variance(variances, np.full(size, seeds - 1)))
        errors = pair_errors(variances, np.full(size, seeds), typical, np.full(size, variance))
        means = values.mean(axis=1)
        first, last = rank_intervals(means, errors, freedom)
        held += (first <= lowest) & (highest <= last)
        widths += float(np.mean(last - first + 1))
        wrong += bool(np.any(behind_the_best(means, errors, freedom) & best))
    return float(held.mean() / draws), float(held.min() / draws), widths / draws, wrong / draws


def table(draws: int = DRAWS) -> list[tuple[str, str, int, str, tuple[float, ...]]]:
    """Return a row per truth, spread, number of seeds and images."""
    return [
        (name, spread, seeds, "fixed" if images is None else f"new, {images}", row(truth, values, seeds, images, draws))
        for name, truth in TRUTHS.items()
        for spread, values in SPREADS.items()
        for seeds, images in ((3, None), (5, None), (3, 50), (5, 1000))
    ]


def main() -> None:
    """Print the table."""
    print(f"{DRAWS} boards of {METHODS} methods a row, seed {SEED}; intervals at 95 %, differences in points\n")
    print(
        "| true means | spread over seeds | seeds | images | coverage | least covered method | mean width in ranks "
        "| a best method behind |"
    )
    print("| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |")
    for name, spread, seeds, images, (held, least, width, wrong) in table():
        print(f"| {name} | {spread} | {seeds} | {images} | {held:.1%} | {least:.1%} | {width:.1f} | {wrong:.1%} |")


if __name__ == "__main__":
    main()
