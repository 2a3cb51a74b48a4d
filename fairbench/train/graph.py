"""CUDA graphs of an attack: recording one, and the objects that a recorded graph assumes to be unchanged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fairbench.method.method import Method
from fairbench.method.record import AttackOutput

__all__ = ["Record", "cuda_graph", "held_by", "unchanged"]

Record = Callable[[Callable[[], AttackOutput]], tuple[AttackOutput, Callable[[], None]]]
_WARM_UPS = 2
_SCALARS = (bool, int, float, str, type(None))


def cuda_graph(run: Callable[[], AttackOutput]) -> tuple[AttackOutput, Callable[[], None]]:
    """Record the kernels that `run` launches on the current device; every replay overwrites the returned result."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run()
    return output, graph.replay


def held_by(method: Method) -> list[object]:
    """All objects that the method and its policies refer to, and the epoch: a recorded attack assumes that they are
    unchanged.
    """
    parts = (method, *method.policies)
    held = [item for part in parts for item in sorted(vars(part).items())]
    return [method.context.epoch, *(value for name, value in held if name not in ("context", "policies"))]


def unchanged(before: list[object], now: list[object]) -> bool:
    """Whether all are the same objects, or scalars of equal value."""
    return len(before) == len(now) and all(
        a is b or (isinstance(a, _SCALARS) and not isinstance(a, Tensor) and a == b)
        for a, b in zip(before, now, strict=True)
    )
