"""BatchNorm with the statistics of the global batch, on every backend that the ranks can communicate with.

torch's SyncBatchNorm runs on CUDA only, so that processes on a CPU could not test it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fairbench import distributed
from fairbench.errors import InvalidInput

__all__ = ["own_statistics", "pooled", "shared_statistics"]

_pooled: ContextVar[bool] = ContextVar("pooled", default=False)


@contextmanager
def pooled() -> Iterator[None]:
    """Inside the block, BatchNorm layers in train mode compute their statistics over the rows of all ranks."""
    token = _pooled.set(True)
    try:
        yield
    finally:
        _pooled.reset(token)


def shared_statistics(model: nn.Module) -> None:
    """Replace every BatchNorm layer of a model, in place, by one that obeys `pooled`; raises InvalidInput for other
    types.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if type(module) not in _SHARED:
                raise InvalidInput(f"{name}: {type(module).__name__} cannot take its statistics over several ranks")
            module.__class__ = _SHARED[type(module)]


def own_statistics(model: nn.Module) -> nn.Module:
    """Return a copy of a model with torch's own BatchNorm layers, which the attacks can fold into convolutions."""
    copy = deepcopy(model)
    for module in copy.modules():
        if type(module) in _OWN:
            module.__class__ = _OWN[type(module)]
    return copy


class _Shared(nn.modules.batchnorm._BatchNorm):
    """Mixin placed before a BatchNorm class in the method resolution order."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B,C,...] by the statistics of all ranks' rows; in eval mode or in one process, as torch does."""
        statistics = self.training or self.running_mean is None
        if not (statistics and _pooled.get()):
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        return _Normalise.apply(x, self.weight, self.bias, self.eps, self._follow)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running mean and unbiased variance, [C] each, as torch does."""
        if self.running_mean is None or self.running_var is None or not self.training:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate: Any = 1 / self.num_batches_tracked.float() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(variance.to(self.running_var.dtype), rate)


class _Normalise(torch.autograd.Function):
    """(x - mean) / std * weight + bias, with mean and std over all ranks' rows and positions; one gather per pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, follow: Any) -> Tensor:
        dims, wide = [0, *range(2, x.dim())], _wide(x)
        centre = wide.mean(dims)
        spread = (wide - _like(centre, x)).square().sum(dims)
        each = torch.cat([centre, spread, centre.new_full((1,), x.numel() / x.shape[1])])
        found = [torch.empty_like(each) for _ in range(distributed.world())]
        dist.all_gather(found, each)
        table, channels = torch.stack(found), x.shape[1]
        counts = table[:, -1:]
        total = counts.sum()
        mean = (counts * table[:, :channels]).sum(0) / total
        # Chan et al. combine each rank's deviations from its own mean, which rounds less than a sum of squares.
        apart = counts * (table[:, :channels] - mean).square()
        squares = (table[:, channels:-1] + apart).sum(0)
        inverse = (squares / total + eps).rsqrt()
        follow(mean, squares / (total - 1).clamp(min=1))
        ctx.save_for_backward(x, mean, inverse, weight)
        ctx.total = total
        scale = inverse if weight is None else inverse * weight
        moved = (wide - _like(mean, x)) * _like(scale, x)
        return (moved if bias is None else moved + _like(bias, x)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, mean, inverse, weight = ctx.saved_tensors
        grad, dims = _wide(grads[0]), [0, *range(2, x.dim())]
        normal = (_wide(x) - _like(mean, x)) * _like(inverse, x)
        ours = torch.stack([grad.sum(dims), (grad * normal).sum(dims)])
        sums = ours.clone()
        dist.all_reduce(sums)
        scale = inverse if weight is None else inverse * weight
        bias_part, weight_part = sums / ctx.total
        back = (grad - _like(bias_part, x) - normal * _like(weight_part, x)) * _like(scale, x)
        of_weight, of_bias = (None, None) if weight is None else (ours[1], ours[0])
        return back.to(x.dtype), of_weight, of_bias, None, None


class _Shared1d(_Shared, nn.BatchNorm1d):
    pass


class _Shared2d(_Shared, nn.BatchNorm2d):
    pass


class _Shared3d(_Shared, nn.BatchNorm3d):
    pass


def _wide(x: Tensor) -> Tensor:
    """x as float32, or as float64 if it already is float64."""
    return x if x.dtype == torch.float64 else x.float()


def _like(values: Tensor, x: Tensor) -> Tensor:
    """Reshape [C] to broadcast over the channels of x [B,C,...]."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


_SHARED = cast(dict[type, type], {nn.BatchNorm1d: _Shared1d, nn.BatchNorm2d: _Shared2d, nn.BatchNorm3d: _Shared3d})
_OWN = {shared: own for own, shared in _SHARED.items()}
