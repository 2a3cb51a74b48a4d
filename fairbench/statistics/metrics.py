"""Figures from verdicts: pure functions of the true and the predicted class of every image.

A verdict is the predicted class of a broken image, else the true class. -1 means that the attack did not run because an
earlier component of its ensemble had already broken the image; it counts as wrong. OUTSIDE, -2, means that the image is
outside the subset of the attack; it counts neither as right nor as wrong, nor among the images of its class. Accuracies
are fractions in [0, 1]. A class without images has accuracy nan and is left out of every minimum, mean and deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairbench.errors import InvalidInput
from fairbench.statistics import figures
from fairbench.statistics.counts import FloatArray, IntArray, as_classes, as_integers, share_of, tally, tally_rows
from fairbench.statistics.intervals import clopper_pearson, worst_intervals

__all__ = [
    "OUTSIDE",
    "Summary",
    "average",
    "class_accuracy",
    "class_correct",
    "class_halves",
    "confusion",
    "images_per_class",
    "inside",
    "occurrences",
    "summarise",
    "summarise_all",
    "union",
]

OUTSIDE = -2


@dataclass(frozen=True, eq=False)
class Summary:
    """Every figure of one model under one attack; the fields are the leaderboard's columns of the same names.

    The per-class arrays have length C; nan (an absent class, or 0/0) becomes an empty cell in a CSV.
    """

    n: int
    average: float
    average_lo: float
    average_hi: float
    worst: float
    worst_lo: float
    worst_hi: float
    worst_class: int
    worst_crossfit: float
    worst10: float
    nsd: float
    nsd_corrected: float
    gap: float
    gini: float
    per_class: FloatArray
    per_class_lo: FloatArray
    per_class_hi: FloatArray
    class_n: IntArray

    @property
    def worst_shared(self) -> int:
        """How many further classes have the accuracy of the worst class."""
        return int((self.per_class == self.worst).sum()) - 1

    def as_dict(self) -> dict[str, Any]:
        """Return the fields in order as plain Python numbers and lists."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def summarise(labels: ArrayLike, predicted: ArrayLike, num_classes: int, alpha: float = 0.05) -> Summary:
    """Return all figures of one verdict array, with intervals at level 1 - alpha.

    labels and predicted are integers [N], labels in 0..C-1 and predicted in -2..C-1; images that are OUTSIDE are left
    out. Raises InvalidInput if lengths differ, a class is out of range, no image is left, or alpha is outside (0, 1).
    """
    return summarise_all(labels, {"": predicted}, num_classes, alpha)[""]


def summarise_all(
    labels: ArrayLike,
    predicted: Mapping[str, ArrayLike],
    num_classes: int,
    alpha: float = 0.05,
    *,
    corrected_below: bool = False,
) -> dict[str, Summary]:
    """Return the result of `summarise` for each of the verdict arrays [N], by name; raises as it does.

    All arrays on the same images are processed together, which is fast for many arrays on few images. `corrected_below`
    is that of `worst_intervals`.
    """
    labels = as_classes("labels", labels, 0, num_classes)
    groups: dict[bytes, dict[str, IntArray]] = {}
    for name, one in predicted.items():
        verdicts = as_classes("predicted", as_integers("predicted", one, len(labels)), OUTSIDE, num_classes)
        groups.setdefault((verdicts != OUTSIDE).tobytes(), {})[name] = verdicts
    found: dict[str, Summary] = {}
    for group in groups.values():
        kept = next(iter(group.values())) != OUTSIDE
        if not kept.any():
            raise InvalidInput(f"{next(iter(group))}: no image is inside the attack's subset")
        rows = np.stack([verdicts[kept] for verdicts in group.values()])
        found |= zip(group, _summaries(labels[kept], rows, num_classes, alpha, corrected_below), strict=True)
    return {name: found[name] for name in predicted}


def _summaries(
    labels: IntArray, verdicts: IntArray, num_classes: int, alpha: float, corrected_below: bool
) -> list[Summary]:
    """Return a summary for each row of verdicts [A, N]."""
    counts, hits = tally(labels, num_classes), verdicts == labels
    correct = tally_rows(labels, hits, num_classes)
    accuracy, present = share_of(correct, counts), counts > 0
    shares = np.ascontiguousarray(accuracy[:, present])
    columns: dict[str, Any] = {}
    columns["average_lo"], columns["average_hi"] = clopper_pearson(correct.sum(1), len(labels), alpha)
    columns["worst_lo"], columns["worst_hi"] = worst_intervals(correct, counts, alpha, corrected_below=corrected_below)
    columns |= {
        "average": hits.mean(axis=1),
        "worst": shares.min(axis=1),
        "worst_class": np.flatnonzero(present)[shares.argmin(axis=1)],
        "worst_crossfit": _crossfit(labels, hits, num_classes),
        "worst10": figures.worst10(shares),
        "nsd": figures.normalized_deviation(shares),
        "nsd_corrected": figures.nsd_corrected(shares, counts[present]),
        "gap": figures.gap(shares),
        "gini": figures.gini(shares),
    }
    class_lo, class_hi = clopper_pearson(correct, counts, alpha)
    names, values = list(columns), zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        Summary(
            n=len(labels),
            **dict(zip(names, row, strict=True)),
            per_class=accuracy[index],
            per_class_lo=class_lo[index],
            per_class_hi=class_hi[index],
            class_n=counts,
        )
        for index, row in enumerate(values)
    ]


def images_per_class(labels: ArrayLike, num_classes: int) -> IntArray:
    """Return the number of images of each class, int64 [C]."""
    return tally(as_classes("labels", labels, 0, num_classes), num_classes)


def class_correct(labels: ArrayLike, predicted: ArrayLike, num_classes: int) -> IntArray:
    """Return the number of correctly classified images of each class, int64 [C]."""
    labels, predicted = _verdicts(labels, predicted, num_classes)
    return tally(labels[labels == predicted], num_classes)


def class_accuracy(labels: ArrayLike, predicted: ArrayLike, num_classes: int) -> FloatArray:
    """Return the accuracy within each class, float64 [C], nan for a class without images."""
    labels, predicted = inside(*_verdicts(labels, predicted, num_classes))
    return share_of(tally(labels[labels == predicted], num_classes), tally(labels, num_classes))


def confusion(labels: ArrayLike, predicted: ArrayLike, num_classes: int) -> IntArray:
    """Return int64 [C, C]: how many images of the row's class are predicted as the column's.

    A negative verdict names no class and is left out, so a row may sum to less than the count of its class.
    """
    labels, predicted = _verdicts(labels, predicted, num_classes)
    named = predicted >= 0
    cells = labels[named] * num_classes + predicted[named]
    return tally(cells, num_classes * num_classes).reshape(num_classes, num_classes)


def union(labels: ArrayLike, predicted: Mapping[str, ArrayLike]) -> IntArray:
    """Return the verdicts, int64 [N], under the union of all attacks: right only if right under every attack.

    predicted maps an attack's name to its verdicts [N], in protocol order. The class is that of the first break that
    has a class; the result is -1 only if no attack gives a class. The verdict is OUTSIDE if it is OUTSIDE for any
    attack, so that the union covers the images that every attack saw.
    """
    if not predicted:
        raise InvalidInput("a union needs the verdicts of at least one attack")
    labels = as_integers("labels", labels)
    combined, outside = labels.copy(), np.zeros(len(labels), dtype=np.bool_)
    for name, verdicts in predicted.items():
        one = as_integers(f"verdicts of {name!r}", verdicts, len(labels))
        outside |= one == OUTSIDE
        undecided = (combined == labels) | ((combined == -1) & (one != labels))
        combined = np.where(undecided, one, combined)
    return np.where(outside, OUTSIDE, combined)


def inside(labels: IntArray, predicted: IntArray) -> tuple[IntArray, IntArray]:
    """Return labels and verdicts, int64 [K] each, of the images that are inside the attack's subset."""
    kept = predicted != OUTSIDE
    return labels[kept], predicted[kept]


def average(labels: ArrayLike, predicted: ArrayLike) -> float:
    """Return the share of correctly classified images; with equal class counts it is also the mean over classes."""
    labels = as_integers("labels", labels)
    labels, predicted = inside(labels, as_integers("predicted", predicted, len(labels)))
    return float(np.mean(labels == predicted))


def class_halves(labels: ArrayLike, num_classes: int) -> NDArray[np.bool_]:
    """Return bool [N], true for the first half: the even occurrences (0th, 2nd, ...) of each class in test order."""
    halves: NDArray[np.bool_] = occurrences(as_classes("labels", labels, 0, num_classes)) % 2 == 0
    return halves


def occurrences(labels: IntArray) -> IntArray:
    """Return int64 [N]: how many earlier images have the same label, so 0 for the first image of every class."""
    counts, by_class = np.bincount(labels), np.argsort(labels, kind="stable")
    found = np.empty(len(labels), np.int64)
    found[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return found


def _crossfit(labels: IntArray, hits: NDArray[np.bool_], num_classes: int) -> FloatArray:
    """Return the cross-fitted worst class accuracy, float64 [A]: chosen on one half and scored on the other.

    hits [A, N] marks the images that a model classifies correctly. The halves are `class_halves`; classes without an
    image in both halves are left out, and the result is nan if none is left. The figure is never biased low, because
    the true accuracy of the chosen class is at least the lowest; the plain minimum is never biased high.
    """
    first = class_halves(labels, num_classes)
    a, b = (
        share_of(tally_rows(labels, hits & half, num_classes), tally(labels[half], num_classes))
        for half in (first, ~first)
    )
    both = ~(np.isnan(a[0]) | np.isnan(b[0]))  # which classes have images in each half is the same for every row
    if not both.any():
        return np.full(len(hits), np.nan)
    a, b, rows = a[:, both], b[:, both], np.arange(len(hits))
    scored: FloatArray = (b[rows, a.argmin(axis=1)] + a[rows, b.argmin(axis=1)]) / 2
    return scored


def _verdicts(labels: ArrayLike, predicted: ArrayLike, num_classes: int) -> tuple[IntArray, IntArray]:
    labels = as_classes("labels", labels, 0, num_classes)
    predicted = as_integers("predicted", predicted, len(labels))
    return labels, as_classes("predicted", predicted, OUTSIDE, num_classes)
