"""Selection of `best`: the epoch with the highest mean of average and worst-class robust accuracy on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fairbench import distributed
from fairbench.attacks import resolve
from fairbench.copies import require
from fairbench.data import Dataset, Split
from fairbench.evaluation.shards import sharded_verdicts
from fairbench.files import checksum
from fairbench.method.method import Method
from fairbench.models import save_checkpoint
from fairbench.results.folder import RunFolder
from fairbench.statistics.metrics import average, class_accuracy
from fairbench.suites.spec import RunSpec
from fairbench.train.batchnorm import own_statistics
from fairbench.train.precision import float32_network
from fairbench.train.resume import State

__all__ = ["save_weights", "select"]


def select(
    spec: RunSpec,
    folder: RunFolder,
    dataset: Dataset,
    validation: Any,
    method: Method,
    state: State,
    device: torch.device,
) -> dict[str, float]:
    """Score the exported model on the selection split and keep it as `best` when its score is the highest so far.

    `validation` holds indices int64 into the training split. A class without images in the split is left out. Returns
    history columns; none when no selection is due.
    """
    rule, epoch = spec.selection, method.context.epoch
    due = (epoch + 1) % rule.every == 0 or epoch + 1 == spec.recipe.epochs
    if rule.rule == "last" or not due:
        return {}
    split = dataset.test if rule.rule == "test" else _subset(dataset.train, validation)
    model = float32_network(method.export_model(), spec.recipe.precision)
    verdicts = sharded_verdicts(
        model if distributed.world() == 1 else own_statistics(model),
        split.images,
        split.labels,
        [resolve(rule.attack, spec.threat)],
        batch_size=spec.evaluation.batch_size,
        device=device,
        seed=spec.evaluation.seed,
        engine=require(spec.environment.engine or "plain"),
    )
    (predicted,) = verdicts.predicted.values()
    overall = average(split.labels, predicted)
    worst = float(np.nanmin(class_accuracy(split.labels, predicted, dataset.num_classes)))
    score = (overall + worst) / 2
    if score > state.best_score:
        state.best_score, state.best_epoch = score, epoch
        if distributed.rank() == 0:
            save_weights(spec, folder.best, model, dataset, epoch=epoch + 1)
            state.best_checksum = checksum(folder.best)
    return {"average": overall, "worst": worst, "score": score}


def save_weights(spec: RunSpec, path: Path, model: nn.Module, dataset: Dataset, *, epoch: int) -> None:
    """Write a run's float32 weights after `epoch` epochs as a checkpoint with its architecture and provenance."""
    save_checkpoint(
        path,
        float32_network(model, spec.recipe.precision),
        spec=spec.model,
        num_classes=dataset.num_classes,
        shape=dataset.shape,
        class_names=dataset.class_names,
        epoch=epoch,
        run_id=spec.run_id,
        method=spec.method.name,
    )


def _subset(split: Split, index: Any) -> Split:
    return Split(split.images[index], split.labels[index])
