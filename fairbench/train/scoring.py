"""The score of a tuning trial: its last epochs on images that it neither trained on nor steered by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fairbench import distributed
from fairbench.attacks import resolve
from fairbench.data import Dataset
from fairbench.evaluation.shards import sharded_verdicts
from fairbench.method.method import Method
from fairbench.suites.spec import RunSpec
from fairbench.train.batchnorm import own_statistics
from fairbench.train.precision import float32_network

__all__ = ["score_trial"]


def score_trial(
    spec: RunSpec, dataset: Dataset, held_out: Sequence[Any], method: Method, device: torch.device
) -> dict[str, int]:
    """Return the history columns that score an epoch of a trial; none for other runs and for epochs that do not count.

    `held_out[c]` is the number of held-out images of class c that withstand the trial's attack, `held_out_n[c]` their
    number. `held_out` are indices int64 into the training split. The test split is not read.
    """
    trial, epoch = spec.trial, method.context.epoch
    if trial is None or epoch < spec.recipe.epochs - trial.epochs:
        return {}
    index = np.sort(np.concatenate([np.asarray(part) for part in held_out]))
    labels = dataset.train.labels[index]
    model = float32_network(method.export_model(), spec.recipe.precision)
    verdicts = sharded_verdicts(
        model if distributed.world() == 1 else own_statistics(model),
        dataset.train.images[index],
        labels,
        [resolve(trial.attack, spec.threat)],
        batch_size=spec.evaluation.batch_size,
        device=device,
        seed=spec.evaluation.seed,
    )
    (predicted,) = verdicts.predicted.values()
    row: dict[str, int] = {}
    for number in range(dataset.num_classes):
        own = labels == number
        row |= {f"held_out[{number}]": int((predicted[own] == number).sum()), f"held_out_n[{number}]": int(own.sum())}
    return row
