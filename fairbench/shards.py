"""An attack's verdicts when several ranks share the images: whole batches in turn, each where it would end alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from fairbench import distributed
from fairbench.attacks import Attack, ImageRNG
from fairbench.cost import CostMeter
from fairbench.journal import Batch, Journal
from fairbench.judge import Progress, attack_verdicts, join
from fairbench.pixels import Pixels, as_input, as_tensor
from fairbench.verdicts import Verdicts
from fairbench.victim import count_classes, held

__all__ = ["sharded_verdicts"]

_FIRST_LOOK = 2


def sharded_verdicts(
    model: nn.Module,
    images: Pixels,
    labels: ArrayLike,
    attack: Attack,
    *,
    batch_size: int,
    device: str | torch.device,
    seed: int,
    progress: Progress | None = None,
    journal: Journal | None = None,
    meter: CostMeter | None = None,
) -> Verdicts:
    """Return on every rank what `attack_verdicts` returns alone; all ranks call this alike.

    The journal and progress are those of rank 0, and its meter gets the passes of all. An attack that takes the whole
    set as one batch runs on rank 0. Raises what `attack_verdicts` does.
    """
    if distributed.world() == 1:
        journals = None if journal is None else {attack.text: journal}
        how: dict[str, Any] = {"batch_size": batch_size, "device": device, "seed": seed}
        return attack_verdicts(model, images, labels, [attack], progress=progress, journals=journals, **how)
    truth = np.asarray(labels, np.int64)
    first = [] if journal is None else [(batch.predicted, batch.components) for batch in journal.batches]
    found = [Batch(*batch) for batch in distributed.exchange(first)[0]]
    size, done = attack.batch_size or batch_size, sum(len(batch.predicted) for batch in found)
    while done < len(truth):
        ends = _ends(done, size, len(truth))
        passes = (0, 0) if meter is None else (meter.forwards, meter.backwards)
        mine = None
        if distributed.rank() < len(ends) - 1:
            start, stop = ends[distributed.rank() : distributed.rank() + 2]
            part = attack_verdicts(
                model,
                images[start:stop],
                truth[start:stop],
                [_starting_at(attack, start)],
                batch_size=batch_size,
                device=device,
                seed=seed,
            )
            mine = _values(part, attack.text)
        if meter is not None:
            meter.add_up(passes)
        for predicted, components in filter(None, distributed.exchange(mine)):
            found.append(Batch(predicted, components))
            done += len(predicted)
            if journal is not None and distributed.rank() == 0:
                journal.append(found[-1])
            if progress is not None:
                progress(attack.text, done, len(truth))
    with held(model, device) as where:
        classes = count_classes(model, as_input(as_tensor(images[:_FIRST_LOOK]), where))
    whole = join(found)
    components = {name: np.array(verdict, np.int64) for name, verdict in whole.components.items()}
    predicted = {attack.text: np.array(whole.predicted, np.int64)}
    return Verdicts(truth, predicted, classes, {attack.text: components} if components else {})


def _ends(done: int, size: int, total: int) -> list[int]:
    """Where the next batches begin and end, one for each rank while there are any."""
    begin = done - done % size
    ends = (min(begin + size * number, total) for number in range(1, distributed.world() + 1))
    return list(dict.fromkeys([done, *ends]))


def _starting_at(attack: Attack, start: int) -> Attack:
    """Return the attack for images of which the first is image `start` of the set: its random numbers are theirs."""
    craft, ensemble = attack.craft, attack.ensemble

    def moved(rng: ImageRNG) -> ImageRNG:
        return replace(rng, index=rng.index + start)

    return replace(
        attack,
        craft=lambda model, x, y, rng: craft(model, x, y, moved(rng)),
        ensemble=ensemble and (lambda model, x, y, rng, note: ensemble(model, x, y, moved(rng), note)),
    )


def _values(part: Verdicts, text: str) -> tuple[list[int], dict[str, list[int]]]:
    """A batch as values that ranks exchange."""
    return part[text].tolist(), {name: one.tolist() for name, one in part.components.get(text, {}).items()}
