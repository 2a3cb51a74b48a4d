"""Train one run: the loop around a method's hooks, selection on held-out data, checkpoints and resume.

Every random number is a function of the seed, the epoch and the image, so that resuming at an epoch needs no generator
state and gives the same bits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fairbench.attacks import resolve
from fairbench.config import Recipe, RunSpec
from fairbench.cost import CostMeter, FlopMeter
from fairbench.data import Augmentation, Dataset, Loader, Split, hold_out, to_unit
from fairbench.errors import CorruptFile, Diverged
from fairbench.evaluate import attack_verdicts
from fairbench.files import atomic, write_json
from fairbench.method import Batch, ClassRecord, Context, Method, StepOutput
from fairbench.metrics import average, class_accuracy
from fairbench.models import build_model, save_checkpoint
from fairbench.plan import build_method
from fairbench.results import RunFolder

__all__ = ["Progress", "Splits", "divide", "learning_rate", "train"]

Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Splits:
    """A data set divided for one run: indices int64 into the training split, disjoint."""

    train: Any
    validation: Any
    method: Any


@dataclass
class _State:
    """What a resume needs beside weights, momentum and the method's tensors."""

    epoch: int = 0
    best_score: float = -math.inf
    best_epoch: int = -1
    flops_per_step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    cost: CostMeter = field(default_factory=CostMeter)


def divide(dataset: Dataset, spec: RunSpec, *, method_split: bool) -> Splits:
    """Hold out the class-balanced validation split and, for methods that steer by data, the method split."""
    config = spec.data
    rest, validation = hold_out(dataset.train.labels, config.validation_per_class, config.split_seed)
    if not method_split:
        return Splits(rest, validation, rest[:0])
    keep, held = hold_out(dataset.train.labels[rest], config.method_per_class, config.split_seed + 1)
    return Splits(rest[keep], validation, rest[held])


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Learning rate after a share `progress` in [0,1) of the training."""
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
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Train a run into its folder: `best`, `last` and `history.csv`; resumes where an earlier process stopped.

    Returns the cost of the training. Raises Diverged when a loss or weight stops being finite.
    """
    device = torch.device(device)
    method = build_method(spec.method)
    splits = divide(dataset, spec, method_split="method_split" in method.required)
    torch.manual_seed(spec.seed)
    model = _build(spec, dataset).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if warm_start is not None:
        model.load_state_dict(warm_start.state_dict())
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=spec.recipe.lr,
        momentum=spec.recipe.momentum,
        weight_decay=spec.recipe.weight_decay,
        nesterov=spec.recipe.nesterov,
    )
    loader = _loader(spec, dataset, splits.train, device)
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
    )
    method.setup(context)
    state = _load_resume(folder, model, optimizer, method) if folder.resume.exists() else _State()
    for epoch in range(state.epoch, spec.recipe.epochs):
        torch.manual_seed(spec.seed * 1_000_003 + epoch + 1)
        context.epoch = epoch
        with state.cost.measure(model):
            row = _epoch(method, context, loader, state)
        row |= _select(spec, folder, dataset, splits, method, state, device)
        state.history.append({**row, **_class_columns(method)})
        state.epoch = epoch + 1
        folder.write_history(state.history)
        _save_resume(folder, model, optimizer, method, state)
        note = f"loss {row['loss']:.3f}" + (f", score {row['score']:.3f}" if "score" in row else "")
        progress("train", epoch + 1, spec.recipe.epochs, note)
    _save(spec, folder.last, method.export_model(), dataset, epoch=spec.recipe.epochs)
    if spec.selection.rule == "last":
        _save(spec, folder.best, method.export_model(), dataset, epoch=spec.recipe.epochs)
    return _cost(state, len(loader), spec.recipe.epochs)


def _epoch(method: Method, context: Context, loader: Loader, state: _State) -> dict[str, Any]:
    """Run one epoch and return its history row; one host sync, at the end."""
    recipe, optimizer = context.recipe, context.optimizer
    method.begin_epoch(context)
    record = ClassRecord(context.num_classes, context.device)
    losses: list[Tensor] = []
    for number, drawn in enumerate(loader.epoch(context.epoch)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, (context.epoch + number / len(loader)) / recipe.epochs)
        if state.flops_per_step == 0:
            with FlopMeter() as meter:
                losses.append(_step(method, context, drawn, record))
            state.flops_per_step = meter.total
        else:
            losses.append(_step(method, context, drawn, record))
    _check_finite(losses, method, context)
    method.end_epoch(record)
    row: dict[str, Any] = {"epoch": context.epoch, "lr": optimizer.param_groups[0]["lr"]}
    row["loss"] = float(torch.stack(losses).mean())
    for name in ("correct_adv", "correct_clean"):
        if name in record.sums:
            row[f"train_{name}"] = float(record.sums[name].sum() / record.counts[name].sum())
    return row


def _step(method: Method, context: Context, drawn: Batch, record: ClassRecord) -> Tensor:
    model, optimizer = context.model, context.optimizer
    bf16 = context.recipe.precision == "bf16"
    model.train()
    with torch.autocast(context.device.type, torch.bfloat16, enabled=bf16):
        batch = method.augment(drawn)
        attacked = method.attack(model, batch)

    def closure() -> StepOutput:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(context.device.type, torch.bfloat16, enabled=bf16):
            output = method.loss(model, batch, attacked)
        output.loss.backward()  # type: ignore[no-untyped-call]
        return output

    output = method.step(closure)
    record.add(batch.y, method.statistics(batch, attacked, output))
    return output.loss.detach().float()


def _select(
    spec: RunSpec,
    folder: RunFolder,
    dataset: Dataset,
    splits: Splits,
    method: Method,
    state: _State,
    device: torch.device,
) -> dict[str, float]:
    """Score the exported model on the split that selection looks at; keep it as `best` when it is the best so far."""
    rule, epoch = spec.selection, method.context.epoch
    due = (epoch + 1) % rule.every == 0 or epoch + 1 == spec.recipe.epochs
    if rule.rule == "last" or not due:
        return {}
    split = dataset.test if rule.rule == "test" else _subset(dataset.train, splits.validation)
    model = method.export_model()
    verdicts = attack_verdicts(
        model,
        split.images,
        split.labels,
        [resolve(rule.attack, spec.threat)],
        batch_size=spec.evaluation.batch_size,
        device=device,
        seed=spec.evaluation.seed,
    )
    (predicted,) = verdicts.predicted.values()
    overall = average(split.labels, predicted)
    worst = float(min(class_accuracy(split.labels, predicted, dataset.num_classes)))
    score = (overall + worst) / 2
    if score > state.best_score:
        state.best_score, state.best_epoch = score, epoch
        _save(spec, folder.best, model, dataset, epoch=epoch + 1)
    return {"average": overall, "worst": worst, "score": score}


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
    """The method split as one un-augmented batch."""
    images = to_unit(torch.from_numpy(dataset.train.images[index]).to(device).permute(0, 3, 1, 2))
    return Batch(images, torch.from_numpy(dataset.train.labels[index]).to(device), torch.from_numpy(index).to(device))


def _subset(split: Split, index: Any) -> Split:
    return Split(split.images[index], split.labels[index])


def _save(spec: RunSpec, path: Any, model: nn.Module, dataset: Dataset, *, epoch: int) -> None:
    save_checkpoint(
        path,
        model,
        spec=spec.model,
        num_classes=dataset.num_classes,
        shape=dataset.shape,
        class_names=dataset.class_names,
        epoch=epoch,
        run_id=spec.run_id,
        method=spec.method.name,
    )


def _save_resume(
    folder: RunFolder, model: nn.Module, optimizer: torch.optim.Optimizer, method: Method, state: _State
) -> None:
    """Write everything a resume needs into one file, so that no kill can leave two that disagree."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"method/{name}": value for name, value in method.state_dict().items()}
    for position, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{position}/{name}": value for name, value in slots.items() if value is not None}
    status = {
        "epoch": state.epoch,
        "best_score": state.best_score if math.isfinite(state.best_score) else None,
        "best_epoch": state.best_epoch,
        "flops_per_step": state.flops_per_step,
        "cost": state.cost.as_dict(),
    }
    with atomic(folder.resume) as temporary:
        metadata = {"status": json.dumps(status), "history": json.dumps(state.history)}
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata=metadata)
    write_json(folder.status, status)


def _load_resume(folder: RunFolder, model: nn.Module, optimizer: torch.optim.Optimizer, method: Method) -> _State:
    try:
        with safe_open(folder.resume, framework="pt") as archive:
            metadata = archive.metadata()
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
        status = json.loads(metadata["status"])
        history = json.loads(metadata["history"])
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise CorruptFile(f"{folder.resume}: cannot be resumed from: {error}; remove it to start over") from None
    model.load_state_dict(_under(tensors, "model/"))
    method.load_state_dict(_under(tensors, "method/"))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in _under(tensors, "optimizer/").items():
        position, _, name = key.partition("/")
        slots.setdefault(int(position), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    score = status["best_score"]
    return _State(
        epoch=status["epoch"],
        best_score=-math.inf if score is None else score,
        best_epoch=status["best_epoch"],
        flops_per_step=status["flops_per_step"],
        history=history,
        cost=CostMeter(**status["cost"]),
    )


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _cost(state: _State, steps_per_epoch: int, epochs: int) -> dict[str, Any]:
    return {
        "train_seconds": state.cost.seconds,
        "forwards": state.cost.forwards,
        "backwards": state.cost.backwards,
        "flops": state.flops_per_step * steps_per_epoch * epochs,
        "best_epoch": state.best_epoch,
    }
