"""Small convolutions as matrix products: on a CPU these win, although they multiply several times more numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Band", "DenseConv"]

_BANDS = 4


class Band(NamedTuple):
    """Some rows of a convolution's output as a matrix product with the rows of its input that they depend on."""

    taken: slice
    made: slice
    weight: Tensor
    bias: Tensor


class DenseConv(nn.Module):
    """A convolution of images of one small size, and the ReLU after it, as one matrix product for each band of rows.

    Inputs and outputs are [B,C,H,W] in channels-last order.
    """

    def __init__(self, conv: nn.Conv2d, shape: tuple[int, int, int], *, rectified: bool = False) -> None:
        super().__init__()
        self.rectified = rectified
        channels, height, width = shape
        with torch.no_grad():
            basis = torch.eye(channels * height * width, device=conv.weight.device, dtype=conv.weight.dtype)
            basis = basis.view(-1, height, width, channels).permute(0, 3, 1, 2)
            made = nn.functional.conv2d(basis, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
            weight = made.permute(0, 2, 3, 1).flatten(1)
        self.shape = made.shape[2], made.shape[3], made.shape[1]
        bias = weight.new_zeros(made.shape[1]) if conv.bias is None else conv.bias
        self.bands = _bands(weight, bias.repeat(weight.shape[1] // len(bias)), made.shape[2])

    def forward(self, x: Tensor) -> Tensor:
        """Map [B,C,H,W] to [B,C',H',W']."""
        out: Tensor = _Product.apply(x.permute(0, 2, 3, 1).flatten(1), self.bands, self.rectified)
        return out.view(-1, *self.shape).permute(0, 3, 1, 2)


class _Product(torch.autograd.Function):
    """Band by band x @ weight + bias, rectified or not, with the gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bands: list[Band], rectified: bool) -> Tensor:
        out = x.new_empty(len(x), bands[-1].made.stop)
        for taken, made, weight, bias in bands:
            torch.addmm(bias, x[:, taken], weight, out=out[:, made])
        if rectified:
            out.relu_()
            ctx.save_for_backward(out)
        ctx.bands, ctx.rectified, ctx.size = bands, rectified, x.shape[1]
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if ctx.rectified:
            grad = torch.ops.aten.threshold_backward(grad, *ctx.saved_tensors, 0)
        back = grad.new_zeros(len(grad), ctx.size)
        for taken, made, weight, _ in ctx.bands:
            back[:, taken].addmm_(grad[:, made], weight.T)
        return back, None, None


def _bands(weight: Tensor, bias: Tensor, rows: int) -> list[Band]:
    """Cut [inputs, outputs] into bands of output rows, without the inputs that a band does not depend on."""
    count = next(count for count in (_BANDS, 2, 1) if rows % count == 0)
    width, bands = weight.shape[1] // count, []
    for made in (slice(k * width, (k + 1) * width) for k in range(count)):
        used = weight[:, made].any(1).nonzero().flatten().tolist() or [0]
        taken = slice(used[0], used[-1] + 1)
        bands.append(Band(taken, made, weight[taken, made].contiguous(), bias[made].contiguous()))
    return bands
