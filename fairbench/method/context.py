"""The parts of a run that a method may use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fairbench.data.batch import Batch
from fairbench.suites.sections import Recipe, ThreatSection

__all__ = ["Context"]


@dataclass
class Context:
    """The parts of a run that a method may use; the trainer keeps `epoch`, counted from 0, current.

    `class_counts` int64 [C] are the images trained on of each class. `threat` has the norm, and eps in pixel units of
    [0,1]. `recipe` is the suite's, with `attack_steps`, and `attack_rel_step` in units of eps. `train_size` is the
    length of the dataset's training split, held-out images included: the range of `Batch.index`. `teacher` and
    `natural_teacher` are frozen networks from images in [0,1] to logits [B,C], and `method_split` is one Batch of all
    images that are held out for the method; each is None unless the method needs it. `training` returns the training
    images of the current epoch in augmented batches, each image once, for methods that look at them before they train.
    """

    model: nn.Module
    num_classes: int
    class_counts: Tensor
    device: torch.device
    threat: ThreatSection
    recipe: Recipe
    seed: int
    epochs: int
    train_size: int
    optimizer: torch.optim.Optimizer
    teacher: nn.Module | None = None
    natural_teacher: nn.Module | None = None
    method_split: Batch | None = None
    training: Callable[[], Iterable[Batch]] = tuple
    epoch: int = 0

    @property
    def progress(self) -> float:
        """Share of the training before the current epoch, in [0,1); papers' absolute epochs scale with it."""
        return self.epoch / self.epochs
