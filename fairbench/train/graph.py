"""CUDA graphs: recording the kernels of a computation, and the objects that a recording assumes to be unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from fairbench.cost import CostMeter
from fairbench.method.method import Method

__all__ = ["Record", "as_it_was", "cuda_graph", "cuda_graph_at_once", "held_by", "unchanged"]

T = TypeVar("T")
_WARM_UPS = 2
_SCALARS = (bool, int, float, str, type(None))


class Record(Protocol):
    """Records what a function launches; returns its result, which every call of the returned function overwrites."""

    def __call__(self, run: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Record `run`."""


def cuda_graph(run: Callable[[], T], *, warm_ups: int = _WARM_UPS) -> tuple[T, Callable[[], None]]:
    """Record the kernels that `run` launches on the current device; every replay overwrites the returned result.

    `run` is called `warm_ups` times before. The recording itself launches nothing.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_ups):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run()
    return output, graph.replay


def cuda_graph_at_once(run: Callable[[], T]) -> tuple[T, Callable[[], None]]:
    """Record as `cuda_graph` does, without calling `run` before: no tensor changes before the first replay."""
    return cuda_graph(run, warm_ups=0)


@contextmanager
def as_it_was(model: nn.Module, cost: CostMeter) -> Iterator[None]:
    """Undo what passes through a model leave behind: BatchNorm's statistics and the counts of the meter."""
    counts = cost.forwards, cost.backwards
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        cost.forwards, cost.backwards = counts
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def held_by(method: Method) -> list[object]:
    """All objects that the method and its policies refer to, and the epoch: a recorded attack assumes that they are
    unchanged.
    """
    parts = (method, *method.policies)
    held = [item for part in parts for item in sorted(vars(part).items())]
    attributes = (value for name, value in held if name not in ("context", "policies"))
    return [method.context.epoch, *(each for value in attributes for each in _inside(value))]


def unchanged(before: list[object], now: list[object]) -> bool:
    """Whether all are the same objects, or scalars of equal value."""
    return len(before) == len(now) and all(
        a is b or (isinstance(a, _SCALARS) and not isinstance(a, Tensor) and a == b)
        for a, b in zip(before, now, strict=True)
    )


def _inside(value: object) -> Iterator[object]:
    """Yield an object, and the items of a list, tuple or dictionary."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _inside(item)
    else:
        yield value
