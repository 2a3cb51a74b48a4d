"""The cost of a stage, measured from outside: network passes, time, memory and floating-point operations."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fairbench import distributed

__all__ = ["CostMeter", "FlopMeter", "count_passes", "peak_memory_mb"]

_measuring: ContextVar[tuple[CostMeter, ...]] = ContextVar("measuring", default=())


class CostMeter:
    """Counts images passed forward and backward through a model, and seconds, over one or more `measure` blocks.

    `as_dict` and the constructor carry the counts over a resume.
    """

    def __init__(self, forwards: int = 0, backwards: int = 0, seconds: float = 0.0) -> None:
        self.forwards = forwards
        self.backwards = backwards
        self.seconds = seconds

    @contextmanager
    def measure(self, model: nn.Module) -> Iterator[None]:
        """Count the passes of `model`, those told to `count_passes`, and the wall-clock time inside the block."""
        handle = model.register_forward_hook(self._count)
        token = _measuring.set((*_measuring.get(), self))
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start
            _measuring.reset(token)
            handle.remove()

    def _count(self, _model: nn.Module, _inputs: object, output: object) -> None:
        if not isinstance(output, Tensor):
            return
        images = output.shape[0]
        self.forwards += images
        if output.requires_grad:
            output.register_hook(lambda _gradient: self._backward(images))  # type: ignore[no-untyped-call]

    def _backward(self, images: int) -> None:
        self.backwards += images

    def add_up(self, before: tuple[int, int]) -> None:
        """Add the passes of all ranks since the counts were `before` (forward, backward); all ranks get the same
        counts.
        """
        counted = distributed.exchange((self.forwards - before[0], self.backwards - before[1]))
        self.forwards = before[0] + sum(forwards for forwards, _ in counted)
        self.backwards = before[1] + sum(backwards for _, backwards in counted)

    def as_dict(self) -> dict[str, float]:
        """Return the counts and seconds by name."""
        return {"forwards": self.forwards, "backwards": self.backwards, "seconds": self.seconds}


def count_passes(forwards: int, backwards: int) -> None:
    """Add images that passed through a copy of a model to the meters with an active `measure` block in this context."""
    for meter in _measuring.get():
        meter.forwards += forwards
        meter.backwards += backwards


class FlopMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the floating-point operations in the block by torch's formulas.

    torch's FlopCounterMode follows modules by hooks that fail under `autograd.grad`, which every attack uses.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=output)
        return output


def peak_memory_mb() -> float:
    """Peak memory in MiB: of the CUDA device where one is used, else of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
