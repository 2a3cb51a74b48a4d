"""Class-balanced parts of a split: held-out training images, and the test images of a protocol."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fairbench.data.dataset import Split
from fairbench.errors import InvalidInput

__all__ = ["balanced_subset", "first_of_each_class", "hold_out"]


def hold_out(labels: NDArray[np.int64], per_class: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split positions into a training part and `per_class` held-out positions of every class.

    Returns `(train_index, held_index)`, both int64 and sorted, the same everywhere for the same labels and seed. Raises
    InvalidInput if a class would have no training image.
    """
    if per_class < 0 or seed < 0:
        raise InvalidInput(f"per_class and seed must not be negative, got {per_class} and {seed}")
    counts = np.bincount(labels)
    if len(counts) == 0 or counts.min() <= per_class:
        smallest = f"class {counts.argmin()} has {counts.min()}" if len(counts) else "there are no labels"
        raise InvalidInput(f"cannot hold out {per_class} images of every class: {smallest}")
    # Raw bits, because numpy promises to keep their stream, but not that of Generator.permutation.
    keys = np.random.PCG64(seed).random_raw(len(labels))
    by_class = np.lexsort((keys, labels))
    starts = np.cumsum(counts) - counts
    held = np.sort(by_class[(starts[:, None] + np.arange(per_class)).ravel()])
    return np.setdiff1d(np.arange(len(labels)), held, assume_unique=True), held


def first_of_each_class(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return `count` positions, int64 ascending: the first image of every class, then the second, and so on."""
    by_class = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(np.lexsort((labels, rank))[:count])


def balanced_subset(split: Split, per_class: int | None) -> Split:
    """Keep the first `per_class` images of every class in their order, or all images if it is None.

    Raises InvalidInput if a class has fewer.
    """
    if per_class is None:
        return split
    counts = np.bincount(split.labels)
    if counts.min() < per_class:
        raise InvalidInput(f"cannot take {per_class} images of every class: class {counts.argmin()} has {counts.min()}")
    kept = first_of_each_class(split.labels, per_class * len(counts))
    return Split(split.images[kept], split.labels[kept])
