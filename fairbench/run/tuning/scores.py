"""The score of a trial, from the held-out images of its last epochs, with the standard error that it has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

import numpy as np

__all__ = ["Score", "over_seeds", "score"]


@dataclass(frozen=True)
class Score:
    """Fractions: the mean of average and worst-class robust accuracy, its standard error, and the two; `n` images."""

    value: float
    se: float
    average: float
    worst: float
    worst_class: int
    n: int
    epochs: int


def score(history: Sequence[Mapping[str, Any]]) -> Score | None:
    """Return the score of a trial from the rows of its history, None where no epoch was scored.

    Each class's accuracy is averaged over the scored epochs before the worst class is taken: the minimum of one epoch's
    noisy accuracies is biased low, and that of their means less so. The standard error is that of drawing the images,
    sum_c w_c^2 p_c (1 - p_c) / n_c with w_c the weight of class c in the score; the epochs share their images, so
    that averaging over them does not lower it.
    """
    rows = [row for row in history if row.get("held_out[0]") not in (None, "")]
    if not rows:
        return None
    classes = sum(name.startswith("held_out[") for name in rows[0])
    hits = np.array([[float(row[f"held_out[{number}]"]) for number in range(classes)] for row in rows])
    counts = np.array([float(rows[0][f"held_out_n[{number}]"]) for number in range(classes)])
    accuracy = hits.mean(axis=0) / counts
    worst = int(accuracy.argmin())
    average = float((accuracy * counts).sum() / counts.sum())
    weights = counts / counts.sum() / 2
    weights[worst] += 0.5
    se = math.sqrt(float((weights**2 * accuracy * (1 - accuracy) / counts).sum()))
    low = float(accuracy[worst])
    return Score((average + low) / 2, se, average, low, worst, int(counts.sum()), len(rows))


def over_seeds(values: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """Return the mean score of a setting over its seeds, and its standard error.

    The seeds share their held-out images: the error of drawing images stays, that of seeds shrinks with their number.
    """
    spread = variance(values) / len(values) if len(values) > 1 else 0.0
    return fmean(values), math.sqrt(fmean(error**2 for error in errors) + spread)
