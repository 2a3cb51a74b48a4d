"""Figures of class accuracies in rows: float64 [..., C] without nan, one model per row, to float64 [...].

`fairbench.statistics.metrics` checks labels and verdicts and calls these functions; docs/metrics.md has the formulas.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["gap", "gini", "normalized_deviation", "nsd_corrected", "worst10"]

FloatArray = NDArray[np.float64]


def worst10(accuracy: FloatArray) -> FloatArray:
    """Return the mean of the lowest tenth of the classes: max(1, round(C / 10)) of them, half to even."""
    ascending = np.sort(accuracy, axis=-1)
    lowest: FloatArray = ascending[..., : max(1, round(accuracy.shape[-1] / 10))].mean(axis=-1)
    return lowest


def normalized_deviation(accuracy: FloatArray) -> FloatArray:
    """Return the population standard deviation over the mean, nan where the mean is 0."""
    return _over(accuracy.std(axis=-1), accuracy.mean(axis=-1))


def nsd_corrected(accuracy: FloatArray, counts: NDArray[np.int64]) -> FloatArray:
    """Return `normalized_deviation` without the variance that sampling counts [C] images adds, nan below 2 images."""
    mean = accuracy.mean(axis=-1)
    if np.any(counts < 2):
        return np.full(np.shape(mean), np.nan)
    sampling = (1 - 1 / accuracy.shape[-1]) * np.mean(accuracy * (1 - accuracy) / (counts - 1), axis=-1)
    return _over(np.sqrt(np.maximum(0.0, accuracy.var(axis=-1) - sampling)), mean)


def gap(accuracy: FloatArray) -> FloatArray:
    """Return the highest minus the lowest."""
    difference: FloatArray = accuracy.max(axis=-1) - accuracy.min(axis=-1)
    return difference


def gini(accuracy: FloatArray) -> FloatArray:
    """Return the Gini coefficient: 0 when equal, at most 1 - 1/C, nan where all are 0."""
    ascending, size = np.sort(accuracy, axis=-1), accuracy.shape[-1]
    weighted = np.sum((2 * np.arange(1, size + 1) - size - 1) * ascending, axis=-1)
    return _over(weighted, size * ascending.sum(axis=-1))


def _over(value: Any, scale: Any) -> FloatArray:
    ratio: FloatArray = np.divide(value, scale, out=np.full(np.shape(scale), np.nan), where=np.asarray(scale) > 0)
    return ratio
