"""The disjoint parts of a run's training data, and the batches that training draws from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fairbench.data import Augmentation, Dataset, Loader, hold_out, to_unit
from fairbench.data.batch import Batch
from fairbench.suites.spec import RunSpec
from fairbench.train.precision import arithmetic

__all__ = ["Splits", "as_batch", "divide", "training_loader"]


@dataclass(frozen=True)
class Splits:
    """Indices int64 into the training split; no image is in two parts.

    `spare` are held-out images that neither the selection nor the method uses.
    """

    train: Any
    validation: Any
    method: Any
    spare: Any


def divide(dataset: Dataset, spec: RunSpec, *, method_split: bool) -> Splits:
    """Hold out the class-balanced validation split and, for methods that steer by data, the method split.

    With `hold_out_alike` in the spec's data, methods without a method split do not train on the images of that split
    either.
    """
    config = spec.data
    rest, validation = hold_out(dataset.train.labels, config.validation_per_class, config.split_seed)
    none = rest[:0]
    if not (method_split or config.hold_out_alike):
        return Splits(rest, validation, method=none, spare=none)
    keep, held = hold_out(dataset.train.labels[rest], config.method_per_class, config.split_seed + 1)
    if method_split:
        return Splits(rest[keep], validation, method=rest[held], spare=none)
    return Splits(rest[keep], validation, method=none, spare=rest[held])


def training_loader(spec: RunSpec, dataset: Dataset, index: Any, device: torch.device) -> Loader:
    """Return the loader of the training images at `index`, with the recipe's augmentation and the run's seed."""
    recipe = spec.recipe
    return Loader(
        dataset.train.images[index],
        dataset.train.labels[index],
        index=index,
        device=device,
        batch_size=recipe.batch_size,
        seed=spec.seed,
        augment=Augmentation(crop_padding=recipe.crop_padding, flip=recipe.flip, pad_mode=recipe.pad_mode),
        num_classes=dataset.num_classes,
    )


def as_batch(spec: RunSpec, dataset: Dataset, index: Any, device: torch.device) -> Batch:
    """Return the training images at `index` as one batch without augmentation."""
    with arithmetic(spec.recipe.precision):
        images = to_unit(torch.from_numpy(dataset.train.images[index]).to(device).permute(0, 3, 1, 2))
    return Batch(images, torch.from_numpy(dataset.train.labels[index]).to(device), torch.from_numpy(index).to(device))
