"""The parts of a training before its first step: network, optimiser, batches, teachers and method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fairbench import distributed
from fairbench.data import Dataset, Loader
from fairbench.method.context import Context
from fairbench.method.method import Method
from fairbench.models import build_model, place
from fairbench.suites.sections import Precision, Recipe
from fairbench.suites.spec import RunSpec
from fairbench.train.precision import arithmetic, widened
from fairbench.train.ranks import Divided, Ranks, whole_batches
from fairbench.train.splits import Splits, as_batch, divide, training_loader
from fairbench.train.teacher import RememberingTeacher, never_augments

__all__ = ["Prepared", "prepare_training"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """The parts of a training besides its method; `ranks` is None in a single process."""

    splits: Splits
    loader: Loader
    ranks: Ranks | None
    batch_size: int


def prepare_training(
    spec: RunSpec,
    dataset: Dataset,
    method: Method,
    *,
    device: torch.device,
    teacher: nn.Module | None,
    natural_teacher: nn.Module | None,
    warm_start: nn.Module | None,
) -> Prepared:
    """Build the parts of a run's training and set its method up; the initial weights depend on the seed alone.

    With `warm_start` the network starts from its weights. If every epoch shows the same images, the teacher's logits
    are computed once.
    """
    precision = spec.recipe.precision
    splits = divide(dataset, spec, method_split="method_split" in method.required)
    torch.manual_seed(spec.seed)
    model = _network(spec, dataset, device, warm_start)
    ranks = Ranks(model) if distributed.world() > 1 else None
    optimizer = _optimizer(spec.recipe, model, device)
    loader = training_loader(spec, dataset, splits.train, device)
    teacher, natural_teacher = (given and _frozen(given, precision, ranks) for given in (teacher, natural_teacher))
    if teacher is not None and never_augments(spec.recipe, method):
        with arithmetic(precision), whole_batches():
            teacher = RememberingTeacher(teacher, loader, train_size=len(dataset.train.labels))
    context = Context(
        model=model,
        num_classes=dataset.num_classes,
        class_counts=loader.class_counts,
        device=device,
        threat=spec.threat,
        recipe=spec.recipe,
        seed=spec.seed,
        epochs=spec.recipe.epochs,
        train_size=len(dataset.train.labels),
        optimizer=optimizer,
        teacher=teacher,
        natural_teacher=natural_teacher,
        method_split=as_batch(spec, dataset, splits.method, device) if len(splits.method) else None,
        training=lambda: loader.epoch(context.epoch),
    )
    with arithmetic(precision):
        method.setup(context)
    return Prepared(splits, loader, ranks, min(spec.recipe.batch_size, len(splits.train)))


def _network(spec: RunSpec, dataset: Dataset, device: torch.device, warm_start: nn.Module | None) -> nn.Module:
    built = build_model(spec.model, num_classes=dataset.num_classes, shape=dataset.shape)
    model = widened(place(built, device, dataset.shape), spec.recipe.precision)
    if warm_start is not None:
        model.load_state_dict(warm_start.state_dict())
    return model


def _optimizer(recipe: Recipe, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
        fused=True if device.type == "cuda" else None,
    )


def _frozen(teacher: nn.Module, precision: Precision, ranks: Ranks | None) -> nn.Module:
    """A teacher in the training's precision; on several ranks each rank forwards its rows of a batch."""
    teacher = widened(teacher, precision)
    return teacher if ranks is None else Divided(teacher).eval()
