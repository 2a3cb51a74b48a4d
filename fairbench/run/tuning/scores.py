"""The score of a trial on the held-out images of its last epochs, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

import numpy as np

__all__ = ["Score", "score", "score_over_seeds"]


@dataclass(frozen=True)
class Score:
    """The mean of average and worst-class robust accuracy, its standard error, and both parts, as fractions of `n`
    images.

    `worst_class` is the class that was the worst in most epochs.
    """

    value: float
    se: float
    average: float
    worst: float
    worst_class: int
    n: int
    epochs: int


def score(history: Sequence[Mapping[str, Any]]) -> Score | None:
    """Return the score of a trial from the rows of its history, None without a scored epoch.

    It is the mean over the scored epochs of each epoch's (average + worst class) / 2, the score that picks a wrong
    setting least often in `docs/simulations/tuning_choice.py`. The standard error is that of drawing the images, sum_c
    w_c^2 p_c (1 - p_c) / n_c, with p_c the mean accuracy of class c and w_c its weight in the score: half its share of
    the images plus half the share of the epochs in which it is the worst. The epochs share their images, so that
    averaging over them does not lower the error.
    """
    rows = [row for row in history if row.get("held_out[0]") not in (None, "")]
    if not rows:
        return None
    classes = sum(name.startswith("held_out[") for name in rows[0])
    hits = np.array([[float(row[f"held_out[{number}]"]) for number in range(classes)] for row in rows])
    counts = np.array([float(rows[0][f"held_out_n[{number}]"]) for number in range(classes)])
    accuracy, images = hits / counts, counts.sum()
    low = np.bincount(accuracy.argmin(axis=1), minlength=classes) / len(rows)
    average, worst = float((hits.sum(axis=1) / images).mean()), float(accuracy.min(axis=1).mean())
    weights, means = (counts / images + low) / 2, accuracy.mean(axis=0)
    se = math.sqrt(float((weights**2 * means * (1 - means) / counts).sum()))
    return Score((average + worst) / 2, se, average, worst, int(low.argmax()), int(images), len(rows))


def score_over_seeds(values: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """Return the mean score of a setting over its seeds, and its standard error.

    The seeds share their held-out images: the error of drawing images remains, that of seeds shrinks with their number.
    """
    spread = variance(values) / len(values) if len(values) > 1 else 0.0
    return fmean(values), math.sqrt(fmean(error**2 for error in errors) + spread)
