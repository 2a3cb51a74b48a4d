"""Print what a finite test set does to the headline figures, as Markdown tables: `python headline_bias.py`.

Test sets are drawn from known class accuracies and scored by `fairbench.statistics.metrics`. The first table of a
profile holds the average of every point estimate beside its true value, the second how often every 95 % interval
holds the true value. Takes about half a minute.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fairbench.statistics import figures, metrics

FloatArray = NDArray[np.float64]
Intervals = tuple[FloatArray, FloatArray]

SEED = 20240
TEST_SETS = 2000
RESAMPLES = 500
PROFILES: tuple[tuple[str, FloatArray, tuple[int, ...]], ...] = (
    ("Ten equal classes of 0.45", np.full(10, 0.45), (1000, 100)),
    ("Ten classes spread evenly from 0.20 to 0.70", np.linspace(0.20, 0.70, 10), (1000, 100)),
    ("A hundred classes spread evenly from 0.05 to 0.45", np.linspace(0.05, 0.45, 100), (100,)),
)
TARGETS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "worst": np.min,
    "worst_crossfit": np.min,
    "worst10": figures.worst10,
    "nsd": figures.normalized_deviation,
    "nsd_corrected": figures.normalized_deviation,
    "gap": figures.gap,
    "gini": figures.gini,
}


def main() -> None:
    """Print both tables of every profile."""
    rng = np.random.default_rng(SEED)
    print(f"{TEST_SETS} test sets a column, seed {SEED}.")
    for title, truth, sizes in PROFILES:
        runs = [simulate(truth, images, rng) for images in sizes]
        estimates = [
            (figure, f"{target(truth):.3f}", *(f"{stack(run, figure).mean():.3f}" for run in runs))
            for figure, target in TARGETS.items()
        ]
        shares = [coverage(run, truth, rng) for run in runs]
        covered = [(name, *(f"{share[name]:.1%}" for share in shares)) for name in shares[0]]
        columns = tuple(f"{images} images a class" for images in sizes)
        print(f"\n{title}:\n")
        print_table(("figure", "truth", *columns), estimates)
        print()
        print_table(("interval", *columns), covered)


def simulate(truth: FloatArray, images: int, rng: np.random.Generator) -> list[metrics.Summary]:
    """Return the summaries of TEST_SETS test sets with `images` a class, drawn from class accuracies `truth` [C]."""
    labels = np.repeat(np.arange(len(truth)), images)
    wrong = (labels + 1) % len(truth)
    draws = (np.where(rng.random(len(labels)) < truth[labels], labels, wrong) for _ in range(TEST_SETS))
    return [metrics.summarise(labels, predicted, len(truth)) for predicted in draws]


def coverage(run: list[metrics.Summary], truth: FloatArray, rng: np.random.Generator) -> dict[str, float]:
    """Return the share of the run's intervals that hold the true value, by the interval's name."""
    resampled = np.array([resampled_minimum(summary, rng) for summary in run])
    return {
        "average_lo, average_hi": share_within(bounds(run, "average"), float(truth.mean())),
        "per_class_lo, per_class_hi": share_within(bounds(run, "per_class"), truth),
        "worst_lo, worst_hi": share_within(bounds(run, "worst"), float(truth.min())),
        "(resampling the minimum)": share_within((resampled[:, 0], resampled[:, 1]), float(truth.min())),
    }


def resampled_minimum(summary: metrics.Summary, rng: np.random.Generator) -> FloatArray:
    """Return the percentile-bootstrap interval [2] of the minimum, images resampled within their class."""
    draws = rng.binomial(summary.class_n, summary.per_class, size=(RESAMPLES, len(summary.class_n)))
    interval: FloatArray = np.quantile((draws / summary.class_n).min(axis=1), [0.025, 0.975])
    return interval


def stack(run: list[metrics.Summary], figure: str) -> FloatArray:
    """Return one figure of every summary, float64 [TEST_SETS] or [TEST_SETS, C]."""
    return np.array([getattr(summary, figure) for summary in run])


def bounds(run: list[metrics.Summary], figure: str) -> Intervals:
    """Return the lower and the upper bounds of one figure."""
    return stack(run, f"{figure}_lo"), stack(run, f"{figure}_hi")


def share_within(intervals: Intervals, truth: FloatArray | float) -> float:
    """Return the share of intervals that hold the truth."""
    return float(np.mean((intervals[0] <= truth) & (truth <= intervals[1])))


def print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a Markdown table whose columns after the first are aligned right."""
    for cells in (header, ("---", *["---:"] * (len(header) - 1)), *rows):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
