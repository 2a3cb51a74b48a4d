"""Train one run: the loop around a method's hooks, selection on held-out data, checkpoints and resume.

Every random number is a function of the seed, the epoch and the image, so that resuming at an epoch needs no generator
state and gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fairbench import distributed
from fairbench.cost import FlopMeter
from fairbench.data import Augmentation, Dataset, Loader, hold_out, to_unit
from fairbench.data.batch import Batch
from fairbench.errors import CorruptFile, Diverged
from fairbench.files import checksum
from fairbench.method.composition import build_method
from fairbench.method.method import Context, Method
from fairbench.method.record import ClassRecord
from fairbench.models import build_model
from fairbench.results.folder import RunFolder
from fairbench.suites.spec import Recipe, RunSpec
from fairbench.train.acceleration import Accelerator, Mode, fastest_mode
from fairbench.train.precision import arithmetic, describe, tensor_cores, widened
from fairbench.train.ranks import Divided, Ranks, whole_batches
from fairbench.train.resume import State, load_resume, save_resume
from fairbench.train.scoring import score_trial
from fairbench.train.selection import save_weights, select
from fairbench.train.step import accelerate, train_step
from fairbench.train.teacher import RememberingTeacher, never_augments

__all__ = ["Progress", "Splits", "divide", "learning_rate", "train"]

Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Splits:
    """The indices int64 of a run's disjoint parts of the training split.

    `spare` are held-out images that the method does not steer by either.
    """

    train: Any
    validation: Any
    method: Any
    spare: Any


def divide(dataset: Dataset, spec: RunSpec, *, method_split: bool) -> Splits:
    """Hold out the class-balanced validation split and, for methods that steer by data, the method split.

    Where the data are held out alike, no method trains on the method split.
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


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Learning rate when a share `progress` in [0,1) of the training is done."""
    if recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "onecycle":
        warm = 0.3
        return recipe.lr * (progress / warm if progress < warm else (1 - progress) / (1 - warm))
    return recipe.lr * recipe.gamma ** sum(progress >= milestone for milestone in recipe.milestones)


def train(
    spec: RunSpec,
    folder: RunFolder,
    dataset: Dataset,
    *,
    teacher: nn.Module | None = None,
    natural_teacher: nn.Module | None = None,
    warm_start: nn.Module | None = None,
    device: torch.device | str = "cpu",
    acceleration: Mode | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Train a run into its folder (`best`, `last`, `history.csv`), resuming where an earlier process stopped.

    `acceleration` None means `fastest_mode`, or eager on several ranks. All ranks of a group call this alike; rank 0
    writes the files and returns the cost of the training. Raises Diverged when a loss or weight stops being finite.
    """
    device, precision = torch.device(device), spec.recipe.precision
    method = build_method(spec.method)
    splits = divide(dataset, spec, method_split="method_split" in method.required)
    torch.manual_seed(spec.seed)
    built = _build(spec, dataset).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = widened(built, precision)
    teacher, natural_teacher = (given and widened(given, precision) for given in (teacher, natural_teacher))
    if warm_start is not None:
        model.load_state_dict(warm_start.state_dict())
    ranks = Ranks(model) if distributed.world() > 1 else None
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=spec.recipe.lr,
        momentum=spec.recipe.momentum,
        weight_decay=spec.recipe.weight_decay,
        nesterov=spec.recipe.nesterov,
        fused=True if device.type == "cuda" else None,
    )
    loader = _loader(spec, dataset, splits.train, device)
    if ranks is not None:
        teacher, natural_teacher = (given and Divided(given).eval() for given in (teacher, natural_teacher))
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
        method_split=_whole(spec, dataset, splits.method, device) if len(splits.method) else None,
        training=lambda: loader.epoch(context.epoch),
    )
    with arithmetic(precision):
        method.setup(context)
    state = load_resume(folder, model, optimizer, method)
    mode = acceleration or (fastest_mode(model, device, precision) if ranks is None else "eager")
    size = min(spec.recipe.batch_size, len(splits.train))
    accelerator = accelerate(method, state.cost, size=size, mode=mode, engine=spec.environment.engine)
    for epoch in range(state.epoch, spec.recipe.epochs):
        torch.manual_seed(spec.seed * 1_000_003 + epoch + 1)
        context.epoch = epoch
        with state.cost.measure(model), arithmetic(precision), tensor_cores(device):
            row = _epoch(method, loader, state, accelerator, ranks)
        row |= select(spec, folder, dataset, splits.validation, method, state, device)
        row |= score_trial(spec, dataset, [splits.validation, splits.spare], method, device)
        state.history.append({**row, **_class_columns(method)})
        state.epoch = epoch + 1
        if distributed.rank() == 0:
            folder.write_history(state.history)
            save_resume(folder, model, optimizer, method, state)
        note = f"loss {row['loss']:.3f}" + (f", score {row['score']:.3f}" if "score" in row else "")
        progress("train", epoch + 1, spec.recipe.epochs, note)
    if distributed.rank() > 0:
        return {}
    if state.best_checksum and (not folder.best.exists() or checksum(folder.best) != state.best_checksum):
        raise CorruptFile(f"{folder.best}: changed since epoch {state.best_epoch} wrote it", folder.best)
    save_weights(spec, folder.last, method.export_model(), dataset, epoch=spec.recipe.epochs)
    if spec.selection.rule == "last":
        save_weights(spec, folder.best, method.export_model(), dataset, epoch=spec.recipe.epochs)
    return {
        **_cost(state, spec.recipe, images=len(splits.train), size=size),
        "arithmetic": describe(device, spec.recipe.precision),
        "acceleration": accelerator.mode,
    }


def _epoch(
    method: Method, loader: Loader, state: State, accelerator: Accelerator, ranks: Ranks | None
) -> dict[str, Any]:
    """Run one epoch and return its history row; the only host sync is at the end."""
    context, passes = method.context, (state.cost.forwards, state.cost.backwards)
    recipe, optimizer = context.recipe, context.optimizer
    method.begin_epoch(context)
    record = ClassRecord(context.num_classes, context.device)
    losses: list[Tensor] = []
    for number, drawn in enumerate(loader.epoch(context.epoch, method.sampling)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, (context.epoch + number / len(loader)) / recipe.epochs)
        if state.flops_per_step == 0:
            with FlopMeter() as meter:
                losses.append(train_step(method, drawn, record, ranks=ranks))
            state.flops_per_step = sum(distributed.exchange(meter.total))
        else:
            losses.append(train_step(method, drawn, record, accelerator, ranks))
    _check_finite(losses, method, context)
    if ranks is not None:
        ranks.check(context.epoch)
    record.all_reduce()
    method.end_epoch(record)
    state.cost.add_up(passes)
    row: dict[str, Any] = {"epoch": context.epoch, "lr": optimizer.param_groups[0]["lr"]}
    row["loss"] = float(torch.stack(losses).mean())
    for name in ("correct_adv", "correct_clean"):
        if name in record.sums:
            row[f"train_{name}"] = float(record.sums[name].sum() / record.counts[name].sum())
    return row


def _check_finite(losses: Sequence[Tensor], method: Method, context: Context) -> None:
    finite = torch.isfinite(torch.stack([*losses, *(p.detach().sum().float() for p in context.model.parameters())]))
    if bool(finite.all()):
        return
    first = int((~finite).nonzero()[0])
    where = f"batch {first}" if first < len(losses) else "the weights after the last batch"
    classwise = {name: [round(v, 4) for v in value.tolist()] for name, value in method.class_state().items()}
    raise Diverged(
        f"training diverged: non-finite value in epoch {context.epoch}, {where}; "
        f"class-wise state: {classwise or 'none'}"
    )


def _class_columns(method: Method) -> dict[str, float]:
    return {
        f"{name}[{index}]": value
        for name, vector in method.class_state().items()
        for index, value in enumerate(vector.tolist())
    }


def _build(spec: RunSpec, dataset: Dataset) -> nn.Module:
    return build_model(spec.model, num_classes=dataset.num_classes, shape=dataset.shape)


def _loader(spec: RunSpec, dataset: Dataset, index: Any, device: torch.device) -> Loader:
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


def _whole(spec: RunSpec, dataset: Dataset, index: Any, device: torch.device) -> Batch:
    """The method split as one batch without augmentation."""
    with arithmetic(spec.recipe.precision):
        images = to_unit(torch.from_numpy(dataset.train.images[index]).to(device).permute(0, 3, 1, 2))
    return Batch(images, torch.from_numpy(dataset.train.labels[index]).to(device), torch.from_numpy(index).to(device))


def _cost(state: State, recipe: Recipe, *, images: int, size: int) -> dict[str, Any]:
    """The cost of the training; `flops` scales the operations of the first step (`size` images) to all images and
    epochs.
    """
    return {
        "train_seconds": state.cost.seconds,
        "forwards": state.cost.forwards,
        "backwards": state.cost.backwards,
        "flops": state.flops_per_step * images * recipe.epochs // size,
        "best_epoch": state.best_epoch,
    }
