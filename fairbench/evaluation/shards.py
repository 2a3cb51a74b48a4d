"""Verdicts when several ranks share the images in turn, with the batch boundaries of a single process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from fairbench import distributed
from fairbench.attacks import Attack, ImageRNG, remembered_copies
from fairbench.copies import Engine
from fairbench.cost import CostMeter
from fairbench.evaluation.batches import BatchVerdicts, join, spread, subset
from fairbench.evaluation.journal import Journal
from fairbench.evaluation.judge import AttackProgress, as_verdicts, attack_verdicts, checked, engine_of, first_look
from fairbench.evaluation.pixels import Pixels
from fairbench.evaluation.verdicts import Verdicts
from fairbench.evaluation.victim import held

__all__ = ["sharded_verdicts"]


def sharded_verdicts(
    model: nn.Module,
    images: Pixels,
    labels: ArrayLike,
    attacks: Sequence[Attack],
    *,
    batch_size: int,
    device: str | torch.device | None = None,
    seed: int,
    engine: Engine | None = None,
    progress: AttackProgress | None = None,
    journals: Mapping[str, Journal] | None = None,
    meter: CostMeter | None = None,
) -> Verdicts:
    """Return the result of `attack_verdicts` on every rank; all ranks make the same call.

    Journals and progress are those of rank 0, whose meter counts the passes of all ranks. An attack that takes the
    whole dataset as one batch runs on rank 0. Raises the errors of `attack_verdicts`.
    """
    how: dict[str, Any] = {"batch_size": batch_size, "device": device, "engine": engine}
    if distributed.world() == 1:
        return attack_verdicts(model, images, labels, attacks, seed=seed, progress=progress, journals=journals, **how)
    pixels, truth = checked(images, labels, attacks, batch_size)
    with held(model, device) as where, remembered_copies(engine):
        edged, num_classes = first_look(model, pixels, truth, where)
        crafted_with = engine_of(edged, pixels, attacks, where)
    shares = _Shares(model, pixels, truth, {**how, "seed": seed}, meter)
    found = {attack.text: shares.all(attack, (journals or {}).get(attack.text), progress) for attack in attacks}
    return as_verdicts(found, truth, num_classes, crafted_with)


@dataclass(frozen=True)
class _Shares:
    """Images that ranks share, and the function `how` with which each rank judges its part."""

    model: nn.Module
    pixels: Tensor
    truth: NDArray[np.int64]
    how: dict[str, Any]
    meter: CostMeter | None

    def all(self, attack: Attack, journal: Journal | None, progress: AttackProgress | None) -> BatchVerdicts:
        """Return the verdicts of one attack on all images, on every rank, OUTSIDE for those outside its subset."""
        if attack.per_class is None:
            return self._each(attack, journal, progress)
        chosen = subset(self.truth, attack.per_class)
        part = replace(self, pixels=self.pixels[torch.from_numpy(chosen)], truth=self.truth[chosen])
        return spread(part._each(attack, journal, progress), chosen, len(self.truth))

    def _each(self, attack: Attack, journal: Journal | None, progress: AttackProgress | None) -> BatchVerdicts:
        first = [] if journal is None else [(batch.predicted, batch.components) for batch in journal.batches]
        found = [BatchVerdicts(*batch) for batch in distributed.exchange(first)[0]]
        size, total = attack.batch_size or self.how["batch_size"], len(self.truth)
        done = sum(len(batch.predicted) for batch in found)
        while done < total:
            for predicted, components in self._next(attack, _ends(done, size, total)):
                found.append(BatchVerdicts(predicted, components))
                done += len(predicted)
                if journal is not None and distributed.rank() == 0:
                    journal.append(found[-1])
                if progress is not None:
                    progress(attack.text, done, total)
        return join(found)

    def _next(self, attack: Attack, ends: list[int]) -> list[Any]:
        """Judge one batch on each rank, and return the verdicts of all ranks in order."""
        passes = (0, 0) if self.meter is None else (self.meter.forwards, self.meter.backwards)
        mine = None
        if distributed.rank() < len(ends) - 1:
            start, stop = ends[distributed.rank() : distributed.rank() + 2]
            images, labels = self.pixels[start:stop], self.truth[start:stop]
            part = attack_verdicts(self.model, images, labels, [_starting_at(attack, start)], **self.how)
            mine = _values(part, attack.text)
        if self.meter is not None:
            self.meter.add_up(passes)
        return [one for one in distributed.exchange(mine) if one is not None]


def _ends(done: int, size: int, total: int) -> list[int]:
    """Return the begin and end of the next batches, one for each rank while images are left."""
    begin = done - done % size
    ends = (min(begin + size * number, total) for number in range(1, distributed.world() + 1))
    return list(dict.fromkeys([done, *ends]))


def _starting_at(attack: Attack, start: int) -> Attack:
    """Return the attack with random numbers for images from position `start` of the dataset on."""
    craft, ensemble = attack.craft, attack.ensemble

    def moved(rng: ImageRNG) -> ImageRNG:
        return replace(rng, index=rng.index + start)

    return replace(
        attack,
        per_class=None,  # the images are already those of the subset
        craft=lambda model, x, y, rng: craft(model, x, y, moved(rng)),
        ensemble=ensemble and (lambda model, x, y, rng, note: ensemble(model, x, y, moved(rng), note)),
    )


def _values(part: Verdicts, text: str) -> tuple[list[int], dict[str, list[int]]]:
    """Return a batch as values that ranks can exchange."""
    return part[text].tolist(), {name: one.tolist() for name, one in part.components.get(text, {}).items()}
