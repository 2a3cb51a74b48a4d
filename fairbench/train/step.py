"""One step of training: attack, loss, backward pass and update, with no host sync on the way."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from fairbench import distributed
from fairbench.cost import CostMeter
from fairbench.data.batch import Batch
from fairbench.method.method import Method
from fairbench.method.record import AttackOutput, ClassRecord, StepOutput
from fairbench.train.acceleration import Accelerator
from fairbench.train.precision import autocast
from fairbench.train.ranks import Ranks, whole_batches
from fairbench.train.teacher import RememberingTeacher

__all__ = ["accelerate", "attack", "train_step"]


def accelerate(method: Method, cost: CostMeter, **how: object) -> Accelerator:
    """The accelerator of a method's attack, in the precision of its recipe; `how` holds arguments of Accelerator."""
    run = partial(attack, method, cached=False)
    return Accelerator(run, method, cost, **how)  # type: ignore[arg-type]


def attack(method: Method, batch: Batch, model: nn.Module | None = None, *, cached: bool = True) -> AttackOutput:
    """Run a method's inner maximisation, on its own model unless one is given; `cached` as in `precision.autocast`."""
    context = method.context
    _name_batch(method, batch)
    with autocast(context.device, context.recipe.precision, cached=cached):
        return method.attack(context.model if model is None else model, batch)


def train_step(
    method: Method,
    drawn: Batch,
    record: ClassRecord,
    accelerator: Accelerator | None = None,
    ranks: Ranks | None = None,
) -> Tensor:
    """Take one optimiser step on a batch as drawn and add its statistics to the record; returns the loss, detached.

    Without an accelerator everything runs eagerly. With `ranks` the batch is the global one, and the record gets this
    rank's rows of it.
    """
    step = partial(_step, method, accelerator, ranks)
    return step(drawn, record) if accelerator is None else accelerator.step(step, drawn, record)


def _step(
    method: Method, accelerator: Accelerator | None, ranks: Ranks | None, drawn: Batch, record: ClassRecord
) -> Tensor:
    context = method.context
    context.model.train()
    with autocast(context.device, context.recipe.precision):
        batch = method.augment(drawn)
    run = partial(attack, method) if accelerator is None else accelerator.attack
    attacked = run(batch) if ranks is None else ranks.attack(run, batch)
    _name_batch(method, batch)
    model = context.model if ranks is None else ranks.model

    def closure() -> StepOutput:
        context.optimizer.zero_grad(set_to_none=True)
        with autocast(context.device, context.recipe.precision), whole_batches():
            if accelerator is None:
                output = method.loss(model, batch, attacked)
            else:
                with accelerator.forward(batch):
                    output = method.loss(model, batch, attacked)
        output.loss.backward()  # type: ignore[no-untyped-call]
        return output

    output = method.step(closure)
    mine, statistics = distributed.rows(len(batch.y)), method.statistics(batch, attacked, output)
    record.add(batch.y[mine], {name: values[mine] for name, values in statistics.items()})
    return output.loss.detach().float()


def _name_batch(method: Method, batch: Batch) -> None:
    if isinstance(method.context.teacher, RememberingTeacher):
        method.context.teacher.at(batch)
