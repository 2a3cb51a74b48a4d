"""Print how far estimates of the worst class are off, and how often intervals hold it: `worst_class.py`.

Right images are drawn from known class accuracies and scored as boards score them. The first table is of single models,
the second of methods over seeds: the classes of every seed lie around the method's, and all seeds meet the same images,
of which each is as hard for every seed as a correlation of 0.5 makes it. About a minute.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from fairbench.statistics import metrics
from fairbench.statistics.intervals import worst_intervals
from fairbench.statistics.moderated import Spread, board_spread
from fairbench.statistics.shrunken import method_worst, true_worst

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SEED, DRAWS = 20240, 1000
PROFILES: dict[str, FloatArray] = {
    "equal, 0.45": np.full(10, 0.45),
    "0.40 to 0.50": np.linspace(0.40, 0.50, 10),
    "0.20 to 0.70": np.linspace(0.20, 0.70, 10),
    "as CIFAR-10": np.array([0.55, 0.66, 0.33, 0.22, 0.35, 0.40, 0.55, 0.57, 0.66, 0.60]),
    "one at 0.10, nine at 0.60": np.r_[0.10, np.full(9, 0.60)],
    "one at 0, nine at 0.50": np.r_[0.0, np.full(9, 0.50)],
}
SIZES = (50, 1000)
SEED_SPREAD, ALIKE = 0.03, 0.5


def single(truth: FloatArray, images: int, draws: int) -> dict[str, float]:
    """Return bias and root mean squared error of each estimate, in points, and the coverage of the interval."""
    rng = np.random.default_rng(SEED)
    classes, counts = len(truth), np.full(len(truth), images)
    labels = np.repeat(np.arange(classes), images)
    held = rng.random((draws, len(labels))) < truth[labels]
    right = held.reshape(draws, classes, images).sum(axis=2)
    names = {str(row): np.where(one, labels, -1) for row, one in enumerate(held[: min(draws, 300)])}
    crossfit = [found.worst_crossfit for found in metrics.summarise_all(labels, names, classes).values()]
    estimates = {"plain": right.min(axis=1) / images, "cross-fit": np.array(crossfit)}
    estimates["true worst"] = true_worst(right, counts)
    low, high = worst_intervals(right, counts)
    found = {}
    for name, values in estimates.items():
        error = 100 * (values - truth.min())
        found |= {f"{name} bias": float(error.mean()), f"{name} error": float(np.sqrt(np.mean(error**2)))}
    return found | {"coverage": float(np.mean((low <= truth.min()) & (truth.min() <= high)))}


def over_seeds(truth: FloatArray, images: int, seeds: int, draws: int) -> dict[str, float]:
    """Return what `single` does of the estimate over seeds, with coverage for new images and seeds, and for these."""
    rng = np.random.default_rng(SEED)
    centres = ndtri(np.clip(truth, 1e-9, None))
    spread, width = SEED_SPREAD / 0.39, len(truth)

    def minima(hardness: FloatArray | None, size: int) -> FloatArray:
        """The worst class of `size` seeds: in truth, or on images of this hardness [C, n]."""
        levels = centres + spread * rng.standard_normal((size, width))
        if hardness is None:
            return np.asarray(ndtr(levels)).min(axis=1)
        chance = ndtr((levels[:, :, None] - ALIKE**0.5 * hardness) / (1 - ALIKE) ** 0.5)
        return np.asarray(rng.binomial(1, chance).mean(axis=2).min(axis=1))

    target = float(minima(None, 20_000).mean())
    errors, plain, new = [], [], 0
    # The board's spread of a worst class over seeds, as 20 methods of three seeds have it on one draw of images.
    shared = rng.standard_normal((width, images))
    board = board_spread([minima(shared, 3) for _ in range(20)])
    board = Spread(board.variance, 40)
    for _ in range(draws):
        hardness = rng.standard_normal((width, images))
        levels = centres + spread * rng.standard_normal((seeds, width))
        chance = ndtr((levels[:, :, None] - ALIKE**0.5 * hardness) / (1 - ALIKE) ** 0.5)
        right = rng.binomial(1, chance).sum(axis=2)
        estimate, low, high = method_worst(right, np.full(width, images), board)
        errors.append(100 * (estimate - target))
        plain.append(100 * (float((right.min(axis=1) / images).mean()) - target))
        new += low <= target <= high
    return {
        "plain bias": float(np.mean(plain)),
        "plain error": float(np.sqrt(np.mean(np.square(plain)))),
        "true worst bias": float(np.mean(errors)),
        "true worst error": float(np.sqrt(np.mean(np.square(errors)))),
        "coverage": new / draws,
    }


def _print(title: str, names: tuple[str, ...], rows: list[tuple[str, int, dict[str, float]]]) -> None:
    print(f"\n| {title} | images a class | {' | '.join(names)} |\n| --- | ---: |{' ---: |' * len(names)}")
    forms = {name: ".1%" if name == "coverage" else ".1f" if "error" in name else "+.1f" for name in names}
    for name, images, found in rows:
        cells = [f"{found[column]:{form}}" for column, form in forms.items()]
        print(f"| {name} | {images} | {' | '.join(cells)} |")


def main() -> None:
    """Print both tables."""
    print(f"{DRAWS} test sets a row (cross-fit 300), seed {SEED}; bias and error (root mean square) in points")
    alone = [(name, size, single(truth, size, DRAWS)) for name, truth in PROFILES.items() for size in SIZES]
    _print("one model", tuple(alone[0][2]), alone)
    chosen = ("0.40 to 0.50", "0.20 to 0.70", "as CIFAR-10", "one at 0.10, nine at 0.60")
    several = [(name, 50, over_seeds(PROFILES[name], 50, 3, 300)) for name in chosen]
    several += [(name, 1000, over_seeds(PROFILES[name], 1000, 3, 60)) for name in chosen[1:3]]
    _print("a method over three seeds", tuple(several[0][2]), several)


if __name__ == "__main__":
    main()
