"""A whole training step as one CUDA graph: attack, loss, backward pass, update and class record.

A step launches thousands of kernels. Between two replays the host only draws the next batch and copies it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy

import torch
from torch import Tensor, nn

from fairbench.cost import CostMeter
from fairbench.data.batch import Batch
from fairbench.method.method import Method
from fairbench.method.record import ClassRecord
from fairbench.train.graph import Record, held_by, unchanged

__all__ = ["RecordedStep", "TakeStep"]

TakeStep = Callable[[Batch, ClassRecord], Tensor]

# Largest difference between a replayed and an eager step, as a share of what the step changes: their kernels may round
# differently, and the sign of a gradient near zero may change.
_TOLERANCE = 0.2


class RecordedStep:
    """Runs the training steps of a method: the first one of an epoch as written, the others as replays of one graph.

    The first step of an epoch creates the tensors that later steps add to. Every epoch is recorded anew, because its
    random numbers are its own. The first recording of all is compared with the step as written. Raises RuntimeError,
    with all tensors as they were before the call, if a recording would not repeat the step.
    """

    def __init__(self, method: Method, cost: CostMeter, record: Record) -> None:
        self._method, self._cost, self._make = method, cost, record
        self._record: ClassRecord | None = None
        self._replay: Callable[[Batch], Tensor] | None = None
        self._held: list[object] = []
        self._compared = False

    def __call__(self, step: TakeStep, batch: Batch, record: ClassRecord) -> Tensor:
        """Take a step on a full batch and add its statistics to the record; returns the loss, detached."""
        if record is not self._record:
            self._record, self._replay = record, None
            return step(batch, record)
        if self._replay is None:
            self._start(step, batch, record)
        elif not unchanged(self._held, held_by(self._method)):
            raise RuntimeError("the method's state is replaced within an epoch, which a graph would not see")
        assert self._replay is not None
        return self._replay(batch)

    def _start(self, step: TakeStep, batch: Batch, record: ClassRecord) -> None:
        """Record a step, without taking it."""
        self._method.context.optimizer.zero_grad(set_to_none=True)  # frees the gradients of an earlier recording
        static = Batch(batch.x.clone(), batch.y.clone(), batch.index.clone())
        with _restored(self._method), self._uncounted() as passes, _scheduled(self._method) as rates:
            held = held_by(self._method)
            loss, replay = self._make(lambda: step(static, record))
            if not unchanged(held, held_by(self._method)):
                raise RuntimeError("the method's state is replaced in every step, which a graph would not see")
            forwards, backwards = passes()

        def replayed(batch: Batch) -> Tensor:
            for ours, theirs in ((static.x, batch.x), (static.y, batch.y), (static.index, batch.index)):
                ours.copy_(theirs)
            for rate, group in zip(rates, self._method.context.optimizer.param_groups, strict=True):
                rate.fill_(group["lr"])
            replay()
            self._cost.forwards += forwards
            self._cost.backwards += backwards
            return loss.clone()

        if not self._compared:
            self._compare(lambda: step(batch, record), lambda: replayed(batch), record)
        self._replay, self._held, self._compared = replayed, held, True

    def _compare(self, step: Callable[[], Tensor], replayed: Callable[[], Tensor], record: ClassRecord) -> None:
        """Raise RuntimeError unless a replay changes all tensors as the step does; leaves them as they were."""
        owners = _written(self._method, record)
        before, found = _values(owners), []
        for run in (step, replayed):
            with _restored(self._method), self._uncounted(), torch.random.fork_rng(_devices(self._method)):
                try:
                    run()
                    found.append(_values(owners))
                finally:
                    _write(owners, before)
        for name, start, wanted, got in zip(owners, before, *found, strict=True):
            if not _distance(wanted, got) <= _TOLERANCE * _distance(wanted, start) + 1e-6:
                raise RuntimeError(f"a replayed step does not change the {name} as the step as written does")

    @contextmanager
    def _uncounted(self) -> Iterator[Callable[[], tuple[int, int]]]:
        """Forget the passes that the block adds to the meter; the function that it gives tells how many these are."""
        before = self._cost.forwards, self._cost.backwards
        try:
            yield lambda: (self._cost.forwards - before[0], self._cost.backwards - before[1])
        finally:
            self._cost.forwards, self._cost.backwards = before


def _written(method: Method, record: ClassRecord) -> dict[str, list[Tensor]]:
    """The tensors that a step may write in place, by their owner."""
    context = method.context
    parts = [value for value in held_by(method) if isinstance(value, nn.Module)]
    own = [value for value in held_by(method) if isinstance(value, Tensor)]
    states = context.optimizer.state.values()
    return {
        "network": _tensors(context.model),
        "optimiser's state": [value for state in states for value in state.values() if isinstance(value, Tensor)],
        "method's state": own + [tensor for part in parts for tensor in _tensors(part)],
        "class record": [*record.sums.values(), *record.counts.values()],
    }


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _values(owners: dict[str, list[Tensor]]) -> list[list[Tensor]]:
    return [[tensor.detach().clone() for tensor in tensors] for tensors in owners.values()]


def _write(owners: dict[str, list[Tensor]], values: list[list[Tensor]]) -> None:
    with torch.no_grad():
        for tensors, given in zip(owners.values(), values, strict=True):
            for tensor, value in zip(tensors, given, strict=True):
                tensor.copy_(value)


def _distance(first: list[Tensor], second: list[Tensor]) -> float:
    """The Euclidean distance between two lists of tensors; infinities of one sign are equal."""
    pairs = [(a.double(), b.double()) for a, b in zip(first, second, strict=True)]
    squares = [torch.where(a == b, 0.0, a - b).square().sum() for a, b in pairs]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def _devices(method: Method) -> list[torch.device]:
    device = method.context.device
    return [] if device.type == "cpu" else [device]


@contextmanager
def _restored(method: Method) -> Iterator[None]:
    """Give the method and its policies back the attributes that they had before the block, and these their items."""
    before = [(vars(part), dict(vars(part))) for part in (method, *method.policies)]
    inner = [(value, copy(value)) for _, kept in before for value in kept.values() if isinstance(value, dict | list)]
    try:
        yield
    finally:
        for attributes, kept in before:
            attributes.clear()
            attributes.update(kept)
        for value, items in inner:
            value.clear()
            value.extend(items) if isinstance(value, list) else value.update(items)


@contextmanager
def _scheduled(method: Method) -> Iterator[list[Tensor]]:
    """Let the optimiser read its learning rates from tensors, which a replay can set, inside the block."""
    groups = method.context.optimizer.param_groups
    before = [group["lr"] for group in groups]
    rates = [torch.full((), rate, device=method.context.device) for rate in before]
    try:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        yield rates
    finally:
        for group, number in zip(groups, before, strict=True):
            group["lr"] = number
