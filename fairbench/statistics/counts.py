"""Labels and verdicts, checked, and how many of them fall in each class."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairbench.errors import InvalidInput

__all__ = ["FloatArray", "IntArray", "as_classes", "as_integers", "share_of", "tally", "tally_rows"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def tally(classes: IntArray, size: int) -> IntArray:
    """Return how many entries each of `size` classes has, int64 [size]."""
    return np.bincount(classes, minlength=size).astype(np.int64)


def tally_rows(labels: IntArray, hits: NDArray[np.bool_], size: int) -> IntArray:
    """Return how many images of each class are true in each row of hits [A, N], int64 [A, C]."""
    cells = np.broadcast_to(labels, hits.shape) + size * np.arange(len(hits))[:, None]
    return tally(cells[hits], len(hits) * size).reshape(len(hits), size)


def share_of(correct: IntArray, counts: IntArray) -> FloatArray:
    """Return correct [..., C] over counts [C], NaN for a class without images."""
    share: FloatArray = np.divide(correct, counts, out=np.full(correct.shape, np.nan), where=counts > 0)
    return share


def as_classes(name: str, values: ArrayLike, low: int, num_classes: int) -> IntArray:
    """Return classes as int64 [N]; raises InvalidInput, with `name`, for one outside low..num_classes - 1."""
    array = as_integers(name, values)
    outside = np.flatnonzero((array < low) | (array >= num_classes))
    if len(outside):
        where = int(outside[0])
        raise InvalidInput(
            f"{name}[{where}] is {array[where]}, outside {low}..{num_classes - 1} ({num_classes} classes)"
        )
    return array


def as_integers(name: str, values: ArrayLike, length: int | None = None) -> IntArray:
    """Return whole numbers as int64 [N]; raises InvalidInput, with `name`, for another type, shape or length."""
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise InvalidInput(f"{name} must be a vector with at least one entry, not shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise InvalidInput(f"{name} must be whole numbers, not {array.dtype}")
    if length is not None and len(array) != length:
        raise InvalidInput(f"{name} has {len(array)} entries where {length} are expected")
    return array.astype(np.int64)
