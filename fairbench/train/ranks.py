"""One training on several ranks, as one process would compute it: the networks' work is divided, the method's is not.

Every rank holds the whole of each global batch. An attack belongs to its images, so each rank attacks its own rows and
all get what it made. A loss may look at the batch as a whole (weights normalised over it, FAAL's distribution, MTARD's
balance), so every rank computes all of it, from logits that each network made of its rank's own rows: what a method
returns is what it would return alone.
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
# Of the sum of absolute weights; ranks that step alike have the same bits.
_DRIFT = 1e-5


@contextmanager
def whole_batches(whole: bool = True) -> Iterator[None]:
    """Say that what networks are shown inside the block are batches that every rank holds, for `Divided` to divide."""
    token = _whole.set(whole)
    try:
        yield
    finally:
        _whole.reset(token)


class Divided(nn.Module):
    """A network that, shown a whole batch, passes this rank's rows and returns everybody's logits, gradients included.

    Elsewhere, and for fewer rows than ranks, each rank computes everything.
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
    """What a step does differently on several ranks; `model` is the network that a method's loss is given.

    DistributedDataParallel broadcasts the weights of rank 0 first, and averages gradients as they come.
    """

    def __init__(self, network: nn.Module) -> None:
        shared_statistics(network)
        self._network = network
        # A kernel of one input channel has two layouts that are the same; DDP warns that it met both.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
        self.model = Divided(DistributedDataParallel(network))

    def attack(self, run: Callable[[Batch], AttackOutput], batch: Batch) -> AttackOutput:
        """Attack this rank's rows of a whole batch and return the attack on all of it.

        Tensors of the memo with one row a sample are put together; any other is taken to be the same everywhere.
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
        """Raise FairbenchError when ranks have come to different weights: a loss went round the model it was given."""
        total = sum(float(weight.detach().double().abs().sum()) for weight in self._network.parameters())
        found = distributed.exchange(total)
        if max(found) - min(found) > _DRIFT * abs(found[0]):
            raise FairbenchError(
                f"the ranks' weights differ after epoch {epoch}: {', '.join(f'{value:.6g}' for value in found)} in "
                "sum; a method's loss must use the model that it is given"
            )


class _Take(torch.autograd.Function):
    """This rank's rows of a batch; backward, the gradient of every rank's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.count = len(x)
        return x[distributed.rows(len(x))].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return distributed.gather_rows(grads[0], ctx.count) / distributed.world()


class _Join(torch.autograd.Function):
    """All rows of logits; backward, this rank's rows times the world, because gradients are averaged afterwards."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, count: int) -> Tensor:
        return distributed.gather_rows(part, count)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        whole = grads[0]
        return whole[distributed.rows(len(whole))] * distributed.world(), None
