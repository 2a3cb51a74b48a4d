"""A copy of a network for CUDA, whose passes over blocks of fixed size are recorded CUDA graphs.

Networks in eval mode treat images independently. A batch is therefore divided into blocks of declared sizes, and the
last block is padded. Activations need the memory of the largest block, however large the batch is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fairbench.copies.counted import Counted
from fairbench.copies.tf32 import rounded_products

__all__ = ["BLOCKS", "Graphed", "blocks", "record_passes"]

# Images a block, largest first.
BLOCKS = (512, 128, 32)
# Passes over a block of one size that run operation by operation before the block is recorded.
_FIRST = 4
_WARM_UPS = 3

Run = Callable[[], Tensor]
_Record = Callable[[Sequence[Run]], "list[tuple[Tensor, Callable[[], None]]]"]
_Eager = Callable[..., tuple[Tensor, Tensor]]


def record_passes(runs: Sequence[Run]) -> list[tuple[Tensor, Callable[[], None]]]:
    """Record the kernels that each function launches; return its result and a function that computes it anew.

    The functions are called in order, and so must be the replays: graphs recorded together share their memory.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            for run in runs:
                run()
    torch.cuda.current_stream().wait_stream(stream)
    pool, recorded = torch.cuda.graph_pool_handle(), []
    for run in runs:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            output = run()
        recorded.append((output, graph.replay))
    return recorded


def blocks(count: int) -> Iterator[tuple[int, int, int]]:
    """Divide `count` images into blocks: yield the begin and end of each, and the size to which it is padded.

    A block is padded if more than half of it is filled, or if there is no smaller size.
    """
    begin = 0
    while begin < count:
        left = count - begin
        size = next((size for size in BLOCKS if 2 * left > size), BLOCKS[-1])
        yield begin, min(begin + size, count), size
        begin += size


@dataclass
class _Forward:
    """A recorded forward pass: its images, which are overwritten before a replay, and its logits."""

    x: Tensor
    logits: Tensor
    replay: Callable[[], None]


@dataclass
class _Both(_Forward):
    """A recorded forward and backward pass, between which the loss gives the gradient of the logits."""

    towards: Tensor
    grad: Tensor
    back: Callable[[], None]


class Graphed(Counted):
    """Maps images float32 [B,C,H,W] to the logits of a copy, and computes gradients, by replays of recorded passes.

    Float32 products are rounded to TF32 if `tf32`. `exact` is the next more exact copy, None if there is none. `record`
    records passes; the weights must not change after the first. A loss runs between the passes and is not recorded: it
    may be any function of logits and targets. If recording fails, a warning says why and all passes run operation by
    operation.
    """

    def __init__(
        self, network: nn.Module, *, tf32: bool, exact: Graphed | None = None, record: _Record | None = None
    ) -> None:
        super().__init__()
        self.network, self.tf32, self.exact, self.record = network, tf32, exact, record or record_passes
        self._recorded: dict[tuple[type[_Forward], int], _Forward] = {}
        self._seen: dict[tuple[type[_Forward], int], int] = {}
        self._failed = False
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B,classes]."""
        if not len(x) or (torch.is_grad_enabled() and x.requires_grad):  # an attack that calls autograd itself
            with rounded_products(x.device, tf32=self.tf32):
                return self.note(self.network(x))
        self.passed(len(x), 0)
        return torch.cat([self._logits(x[begin:end], size) for begin, end, size in blocks(len(x))])

    def logits_and_gradient(
        self, eager: _Eager, x: Tensor, loss: Callable[..., Tensor], *target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `fairbench.attacks.gradient.logits_and_gradient`; `eager` computes both for a network by autograd."""
        self.passed(len(x), len(x))
        if not target or not len(x):  # a loss without targets may hold values for the whole batch
            with rounded_products(x.device, tf32=self.tf32):
                return eager(self.network, x, loss, *target)
        found, gradient = [], torch.empty_like(x, memory_format=torch.contiguous_format)
        for begin, end, size in blocks(len(x)):
            rows = slice(begin, end)
            logits, gradient[rows] = self._both(eager, x[rows], size, loss, *(each[rows] for each in target))
            found.append(logits)
        return torch.cat(found), gradient

    def forget(self) -> None:
        """Free the recorded passes and their memory."""
        self._recorded.clear()
        self._seen.clear()

    def _logits(self, x: Tensor, size: int) -> Tensor:
        one = self._ready(_Forward, x, size)
        if one is None:
            with rounded_products(x.device, tf32=self.tf32), torch.no_grad():
                found: Tensor = self.network(x)
                return found
        one.x[: len(x)].copy_(x)
        one.replay()
        return one.logits[: len(x)].clone()

    def _both(
        self, eager: _Eager, x: Tensor, size: int, loss: Callable[..., Tensor], *target: Tensor
    ) -> tuple[Tensor, Tensor]:
        one = self._ready(_Both, x, size)
        if one is None:
            with rounded_products(x.device, tf32=self.tf32):
                return eager(self.network, x, loss, *target)
        assert isinstance(one, _Both)
        with torch.no_grad():
            one.x[: len(x)].copy_(x)
            one.replay()
        logits = one.logits[: len(x)].detach().clone()
        with torch.enable_grad():
            (towards,) = torch.autograd.grad(loss(logits.requires_grad_(), *target).sum(), logits)
        one.towards[: len(x)].copy_(towards)
        one.back()
        return logits.detach(), one.grad[: len(x)]

    def _ready(self, kind: type[_Forward], x: Tensor, size: int) -> _Forward | None:
        """Return the recorded pass over blocks of a size; None if it is to run operation by operation."""
        key = kind, size
        if key not in self._recorded and not self._failed:
            self._seen[key] = self._seen.get(key, 0) + 1
            if self._seen[key] > _FIRST:
                self._try(kind, x, size)
        return self._recorded.get(key)

    def _try(self, kind: type[_Forward], x: Tensor, size: int) -> None:
        try:
            with rounded_products(x.device, tf32=self.tf32, tuned=True):
                self._recorded[kind, size] = (_recorded_both if kind is _Both else _recorded_forward)(
                    self.network, x.new_zeros(size, *x.shape[1:]), self.record
                )
        except Exception as error:  # whatever an operation that cannot be recorded raises
            self._failed = True
            short = isinstance(error, torch.OutOfMemoryError)
            why = "too little memory" if short else str(error).strip().partition("\n")[0]
            warnings.warn(f"no CUDA graph of {size} images: {why}; going on without graphs", stacklevel=2)


def _recorded_forward(network: nn.Module, x: Tensor, record: _Record) -> _Forward:
    with torch.no_grad():
        ((logits, replay),) = record([lambda: network(x)])
    return _Forward(x, logits, replay)


def _recorded_both(network: nn.Module, x: Tensor, record: _Record) -> _Both:
    x.requires_grad_()
    with torch.enable_grad():
        latest: Tensor = network(x)
        towards = torch.zeros_like(latest)

        def forward() -> Tensor:
            nonlocal latest
            with torch.enable_grad():
                latest = network(x)
            return latest

        def backward() -> Tensor:
            grad: Tensor = torch.autograd.grad(latest, x, towards)[0]
            return grad

        (logits, replay), (grad, back) = record([forward, backward])
    return _Both(x, logits.detach(), replay, towards, grad, back)
