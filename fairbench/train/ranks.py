"""One training on several ranks with the results of a single process: only the networks' work is divided.

Every rank holds the whole of each global batch. The attack on an image depends on that image alone, so each rank
attacks its own rows and all ranks receive the result. A loss may depend on the whole batch (weights normalised over it,
FAAL's distribution, MTARD's balance), so every rank computes the whole loss from logits that the ranks computed for
their own rows. A method therefore returns what it would return in a single process.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fairbench import distributed
from fairbench.data.batch import Batch
from fairbench.errors import FairbenchError
from fairbench.method.record import AttackOutput
from fairbench.train.batchnorm import pooled, shared_statistics

__all__ = ["Divided", "Ranks", "whole_batches"]

_whole: ContextVar[bool] = ContextVar("whole", default=False)
# Relative tolerance of the sum of absolute weights; ranks that take equal steps have the same bits.
_DRIFT = 1e-5


@contextmanager
def whole_batches(whole: bool = True) -> Iterator[None]:
    """Inside the block, networks receive global batches that every rank holds, and `Divided` splits them by rank."""
    token = _whole.set(whole)
    try:
        yield
    finally:
        _whole.reset(token)


class Divided(nn.Module):
    """A network that computes this rank's rows of a global batch and returns all ranks' logits, differentiably.

    Outside `whole_batches`, and for fewer rows than ranks, each rank computes every row.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B,C] of x float32 [B,...]."""
        if not _whole.get() or len(x) < distributed.world():
            with whole_batches(False):
                return self.module(x)  # type: ignore[no-any-return]
        with whole_batches(False), pooled():
            logits = self.module(_Take.apply(x) if x.requires_grad else x[distributed.rows(len(x))])
        return _Join.apply(logits, len(x))  # type: ignore[no-any-return]


class Ranks:
    """The parts of a training step that differ on several ranks; `model` is the network passed to the method's loss.

    DistributedDataParallel broadcasts the weights of rank 0 at the start and averages gradients during the backward
    pass.
    """

    def __init__(self, network: nn.Module) -> None:
        shared_statistics(network)
        self._network = network
        # A kernel with one input channel has two equivalent memory layouts; DDP warns when it meets both.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
        self.model = Divided(DistributedDataParallel(network))

    def attack(self, run: Callable[[Batch], AttackOutput], batch: Batch) -> AttackOutput:
        """Attack this rank's rows of a global batch and return the attack on all rows.

        Memo tensors with one row per sample are gathered; all others are taken to be equal on every rank.
        """
        count = len(batch.y)
        if count < distributed.world():
            return run(batch)
        mine = distributed.rows(count)
        with pooled():
            part = run(Batch(batch.x[mine], batch.y[mine], batch.index[mine]))
        size = mine.stop - mine.start

        def joined(value: Tensor | None) -> Tensor | None:
            has_rows = value is not None and value.dim() > 0 and len(value) == size
            return distributed.gather_rows(value, count) if has_rows else value  # type: ignore[arg-type]

        memo = {name: joined(value) for name, value in part.memo.items()}
        x_adv, survived, keep = joined(part.x_adv), joined(part.survived), joined(part.keep)
        return AttackOutput(x_adv, survived, keep, memo)  # type: ignore[arg-type]

    def check(self, epoch: int) -> None:
        """Raise FairbenchError when the ranks' weights differ, which happens when a loss bypasses the model it was
        given.
        """
        total = sum(float(weight.detach().double().abs().sum()) for weight in self._network.parameters())
        found = distributed.exchange(total)
        if max(found) - min(found) > _DRIFT * abs(found[0]):
            raise FairbenchError(
                f"the ranks' weights differ after epoch {epoch}: {', '.join(f'{value:.6g}' for value in found)} in "
                "sum; a method's loss must use the model that it is given"
            )


class _Take(torch.autograd.Function):
    """This rank's rows of a batch; the backward pass returns the gradient of every rank's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.count = len(x)
        return x[distributed.rows(len(x))].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return distributed.gather_rows(grads[0], ctx.count) / distributed.world()


class _Join(torch.autograd.Function):
    """All rows of logits; the backward pass scales this rank's rows by the world size, because DDP averages."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, count: int) -> Tensor:
        return distributed.gather_rows(part, count)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        whole = grads[0]
        return whole[distributed.rows(len(whole))] * distributed.world(), None
