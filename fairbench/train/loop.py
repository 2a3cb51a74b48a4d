"""Train one run: the loop around a method's hooks, selection on held-out data, checkpoints and resume.

Every random number is a function of the seed, the epoch and the image, so that resuming at an epoch needs no generator
state and gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fairbench import distributed
from fairbench.cost import FlopMeter
from fairbench.data import Dataset
from fairbench.errors import CorruptFile, Diverged
from fairbench.files import checksum
from fairbench.method.composition import build_method
from fairbench.method.context import Context
from fairbench.method.method import Method
from fairbench.method.record import ClassRecord
from fairbench.results.folder import RunFolder
from fairbench.suites.sections import Recipe
from fairbench.suites.spec import RunSpec
from fairbench.train.acceleration import Accelerator, Mode, fastest_mode
from fairbench.train.logger import Logger, Loggers, training_of
from fairbench.train.precision import arithmetic, describe_precision, tensor_cores
from fairbench.train.preparation import Prepared, prepare_training
from fairbench.train.resume import State, load_resume, save_resume
from fairbench.train.scoring import score_trial
from fairbench.train.selection import save_weights, select
from fairbench.train.step import accelerate, train_step

__all__ = ["TrainingProgress", "learning_rate", "train"]

TrainingProgress = Callable[[str, int, int, str], None]


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
    progress: TrainingProgress = lambda *_: None,
    loggers: Sequence[Logger] = (),
) -> dict[str, Any]:
    """Train a run into its folder (`best`, `last`, `history.csv`), resuming from the last finished epoch.

    `acceleration` None means `fastest_mode`, or eager on several ranks. All ranks of a group call this with equal
    arguments; rank 0 writes the files, calls the `loggers` and returns the cost of the training. Raises Diverged when a
    loss or a weight is not finite.
    """
    device = torch.device(device)
    method = build_method(spec.method)
    prepared = prepare_training(
        spec,
        dataset,
        method,
        device=device,
        teacher=teacher,
        natural_teacher=natural_teacher,
        warm_start=warm_start,
    )
    model, optimizer, splits = method.context.model, method.context.optimizer, prepared.splits
    state = load_resume(folder, model, optimizer, method)
    mode = acceleration or (fastest_mode(model, device, spec.recipe.precision) if prepared.ranks is None else "eager")
    accelerator = accelerate(method, state.cost, size=prepared.batch_size, mode=mode, engine=spec.environment.engine)
    described = training_of(spec, dataset.class_names, state.epoch)
    with Loggers(loggers if distributed.rank() == 0 else ()).of(described) as logs:
        for epoch in range(state.epoch, spec.recipe.epochs):
            trained = _epoch(epoch, method, prepared, state, accelerator)
            selected = select(spec, folder, dataset, splits.validation, method, state, device)
            scored = score_trial(spec, dataset, [splits.validation, splits.spare], method, device)
            row = {**trained, **selected, **scored}
            class_state = {name: vector.tolist() for name, vector in method.class_state().items()}
            scalars = {name: value for name, value in method.scalar_state().items() if name not in row}
            state.history.append({**row, **scalars, **_class_columns(class_state)})
            state.epoch = epoch + 1
            if distributed.rank() == 0:
                folder.write_history(state.history)
                save_resume(folder, model, optimizer, method, state)
            logs.after(epoch, trained, selected, class_state)
            note = f"loss {row['loss']:.3f}" + (f", score {row['score']:.3f}" if "score" in row else "")
            progress("train", epoch + 1, spec.recipe.epochs, note)
    if distributed.rank() > 0:
        return {}
    _save_last(spec, folder, dataset, method, state)
    return {
        **_cost(state, spec.recipe, images=len(splits.train), size=prepared.batch_size),
        "arithmetic": describe_precision(device, spec.recipe.precision),
        "acceleration": accelerator.mode,
    }


def _epoch(epoch: int, method: Method, prepared: Prepared, state: State, accelerator: Accelerator) -> dict[str, Any]:
    """Run one epoch and return its history row; the only host sync is at the end."""
    context, passes = method.context, (state.cost.forwards, state.cost.backwards)
    torch.manual_seed(context.seed * 1_000_003 + epoch + 1)
    context.epoch = epoch
    record = ClassRecord(context.num_classes, context.device)
    with state.cost.measure(context.model), arithmetic(context.recipe.precision), tensor_cores(context.device):
        method.begin_epoch(context)
        losses = _steps(method, prepared, state, accelerator, record)
        _check_finite(losses, method, context)
        if prepared.ranks is not None:
            prepared.ranks.check(epoch)
        record.all_reduce()
        method.end_epoch(record)
        state.cost.add_up(passes)
        row: dict[str, Any] = {"epoch": epoch, "lr": context.optimizer.param_groups[0]["lr"]}
        row["loss"] = float(torch.stack(losses).mean())
        for name in ("correct_adv", "correct_clean"):
            if name in record.sums:
                row[f"train_{name}"] = float(record.sums[name].sum() / record.counts[name].sum())
    return row


def _steps(
    method: Method, prepared: Prepared, state: State, accelerator: Accelerator, record: ClassRecord
) -> list[Tensor]:
    """Take an epoch's steps and return their losses; the very first step is eager and counts operations."""
    context, loader, ranks = method.context, prepared.loader, prepared.ranks
    losses: list[Tensor] = []
    for number, drawn in enumerate(loader.epoch(context.epoch, method.sampling)):
        for group in context.optimizer.param_groups:
            group["lr"] = learning_rate(context.recipe, (context.epoch + number / len(loader)) / context.recipe.epochs)
        if state.flops_per_step == 0:
            with FlopMeter() as meter:
                losses.append(train_step(method, drawn, record, ranks=ranks))
            state.flops_per_step = sum(distributed.exchange(meter.total))
        else:
            losses.append(train_step(method, drawn, record, accelerator, ranks))
    return losses


def _save_last(spec: RunSpec, folder: RunFolder, dataset: Dataset, method: Method, state: State) -> None:
    """Write the last epoch's weights, also as `best` where the rule says so; raises CorruptFile if `best` changed."""
    if state.best_checksum and (not folder.best.exists() or checksum(folder.best) != state.best_checksum):
        raise CorruptFile(f"{folder.best}: changed since epoch {state.best_epoch} wrote it", folder.best)
    save_weights(spec, folder.last, method.export_model(), dataset, epoch=spec.recipe.epochs)
    if spec.selection.rule == "last":
        save_weights(spec, folder.best, method.export_model(), dataset, epoch=spec.recipe.epochs)


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


def _class_columns(state: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {f"{name}[{index}]": value for name, vector in state.items() for index, value in enumerate(vector)}


def _cost(state: State, recipe: Recipe, *, images: int, size: int) -> dict[str, Any]:
    """The cost of the training; `flops` scales the operations of the first step, of `size` images, to all steps."""
    return {
        "train_seconds": state.cost.seconds,
        "forwards": state.cost.forwards,
        "backwards": state.cost.backwards,
        "flops": state.flops_per_step * images * recipe.epochs // size,
        "best_epoch": state.best_epoch,
    }
