"""The verdicts on one batch of images, joined over batches and spread from a subset to all images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fairbench.statistics.metrics import OUTSIDE, occurrences

__all__ = ["BatchVerdicts", "Notes", "by_component", "join", "spread", "subset"]

Notes = Sequence[tuple[str, NDArray[np.int64]]]


class BatchVerdicts(NamedTuple):
    """The predicted classes of consecutive images, and those of each component of an ensemble."""

    predicted: list[int]
    components: dict[str, list[int]]


def by_component(truth: NDArray[np.int64], predicted: NDArray[np.int64], notes: Notes) -> dict[str, list[int]]:
    """Return the verdicts of each component of an ensemble, -1 where an earlier component had broken the image.

    `notes` are the components that ran, in order, and the positions of the images that each broke. A broken image that
    no component noted was returned unchanged and is misclassified by rounding in a batch of another size. Its break
    counts for the first component, "clean".
    """
    broken = predicted != truth
    owner = np.where(broken, 0, len(notes))
    for number, (_, rows) in reversed(list(enumerate(notes))):
        owner[rows] = np.where(broken[rows], number, len(notes))
    return {
        name: np.select([owner > number, owner == number], [truth, predicted], -1).tolist()
        for number, (name, _) in enumerate(notes)
    }


def join(batches: Sequence[BatchVerdicts]) -> BatchVerdicts:
    """Concatenate the verdicts of batches; a component that did not run in a batch has -1 there."""
    names = dict.fromkeys(name for batch in batches for name in batch.components)
    components = {
        name: [c for batch in batches for c in batch.components.get(name, [-1] * len(batch.predicted))]
        for name in names
    }
    return BatchVerdicts([c for batch in batches for c in batch.predicted], components)


def subset(truth: NDArray[np.int64], per_class: int) -> NDArray[np.int64]:
    """Return the positions, int64 [K] ascending, of the first `per_class` images of every class."""
    return np.flatnonzero(occurrences(truth) < per_class)


def spread(batch: BatchVerdicts, chosen: NDArray[np.int64], total: int) -> BatchVerdicts:
    """Scatter verdicts on the images at the positions `chosen` into an array for `total` images, OUTSIDE elsewhere."""

    def placed(values: list[int]) -> list[int]:
        found = np.full(total, OUTSIDE, np.int64)
        found[chosen] = values
        return found.tolist()

    return BatchVerdicts(placed(batch.predicted), {name: placed(one) for name, one in batch.components.items()})
