"""Print how often tuning picks a wrong setting, by score and images: `python docs/simulations/tuning_choice.py`.

Six settings of ten classes. What is sized by the histories of the digits board, version 3, over its last ten epochs:
class accuracies from 20 % to 90 %, deviations of a class from seed to seed (4 points, and 1.5 points shared by all
classes) and from epoch to epoch (6 points, 2 shared), and images that are mostly the same ones right in every epoch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

SETTINGS, CLASSES, EPOCHS, DRAWS, SEED = 6, 10, 10, 2000, 20241
BY_SEED, BY_SEED_SHARED, BY_EPOCH, BY_EPOCH_SHARED = 0.04, 0.015, 0.06, 0.02
LASTING = 0.9  # correlation of an image's difficulty between epochs and between runs
SCORES = ("last epoch", "best epoch", "mean of epochs", "mean classes")
Floats = NDArray[np.float64]


def settings(rng: np.random.Generator, gap: float) -> Floats:
    """True class accuracies [D,S,C]: every setting `gap` below the one before on average, classes off by 3 points."""
    profile = np.linspace(0.2, 0.9, CLASSES)
    offsets = -gap * np.arange(SETTINGS)[:, None]
    return np.clip(profile + offsets + rng.normal(0, 0.03, (DRAWS, SETTINGS, CLASSES)), 0.02, 0.98)


def observe(rng: np.random.Generator, truth: Floats, images: int) -> Floats:
    """Class accuracies [D,S,E,C] of one run of each setting in its last epochs, on `images` held-out images a class."""
    shape = (*truth.shape[:2], EPOCHS, CLASSES)
    run = truth + rng.normal(0, BY_SEED, truth.shape) + rng.normal(0, BY_SEED_SHARED, truth.shape[:2])[..., None]
    epochs = run[:, :, None] + rng.normal(0, BY_EPOCH, shape) + rng.normal(0, BY_EPOCH_SHARED, (*shape[:3], 1))
    bound = ndtri(np.clip(epochs, 0.005, 0.995))
    hits = np.zeros(shape)
    for _ in range(images):  # an image is right where its lasting difficulty and the epoch's chance are below the bound
        difficulty = rng.normal(0, 1, (truth.shape[0], 1, 1, CLASSES))  # of all settings: they share their images
        hits += rng.random(shape) < ndtr((bound - np.sqrt(LASTING) * difficulty) / np.sqrt(1 - LASTING))
    return hits / images


def score(found: Floats) -> dict[str, Floats]:
    """Scores [D,S] by their name: the mean of average and worst class, of which epochs and in which order."""
    each = (found.mean(axis=-1) + found.min(axis=-1)) / 2
    classes = found.mean(axis=2)
    values = (each[:, :, -1], each.max(axis=2), each.mean(axis=2), (classes.mean(axis=-1) + classes.min(axis=-1)) / 2)
    return dict(zip(SCORES, values, strict=True))


def pick(first: Floats, second: Floats | None) -> NDArray[np.intp]:
    """The setting chosen in each draw; with a second run, by the mean of both among the two best of the first."""
    if second is None:
        return first.argmax(axis=1)
    finalists = np.argsort(-first, axis=1, kind="stable")[:, :2]
    means = np.take_along_axis((first + second) / 2, finalists, axis=1)
    return np.take_along_axis(finalists, means.argmax(axis=1)[:, None], axis=1)[:, 0]


def play(gap: float, images: int) -> dict[tuple[str, int], tuple[float, float]]:
    """Share of wrong picks, and what the picked setting lacks on average, in points, by score and number of seeds."""
    rng = np.random.default_rng(SEED)
    truth = settings(rng, gap)
    worth = (truth.mean(axis=-1) + truth.min(axis=-1)) / 2
    first, second = (score(observe(rng, truth, images)) for _ in range(2))
    found = {}
    for name in SCORES:
        for seeds in (1, 2):
            chosen = pick(first[name], second[name] if seeds == 2 else None)
            lost = worth.max(axis=1) - np.take_along_axis(worth, chosen[:, None], axis=1)[:, 0]
            found[name, seeds] = float((lost > 0).mean()), 100 * float(lost.mean())
    return found


def main() -> None:
    """Print a row a gap and size: wrong picks and points lost, with one seed and with a second one of the two best."""
    print(f"{DRAWS} draws a row, seed {SEED}; wrong picks, and points of the true score that the pick lacks\n")
    heads = [f"{name}, {'2nd seed of two' if seeds == 2 else '1 seed'}" for name in SCORES for seeds in (1, 2)]
    print(f"| gap, points | images a class | {' | '.join(heads)} |")
    print(f"| ---: | ---: |{' ---: |' * len(heads)}")
    for gap in (0.02, 0.05):
        for images in (10, 15, 20, 40):
            found = play(gap, images)
            cells = [f"{wrong:.0%} ({lost:.1f})" for wrong, lost in found.values()]
            print(f"| {100 * gap:.0f} | {images} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
