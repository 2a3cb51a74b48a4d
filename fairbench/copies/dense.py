"""Small convolutions as matrix products: on a CPU these win, although they multiply several times more numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["DenseConv"]

_BANDS = 4


class _Band(NamedTuple):
    """Some rows of a convolution's output as a matrix product with the rows of its input that they depend on.

    `numbers` says which weight each entry of the matrix is, and one past the last where it is zero.
    """

    taken: slice
    made: slice
    numbers: Tensor
    matrix: Tensor


class DenseConv(nn.Module):
    """A convolution of images of one small size, and the ReLU after it, as one matrix product for each band of rows.

    Inputs and outputs are [B,C,H,W] in channels-last order.
    """

    def __init__(self, conv: nn.Conv2d, shape: tuple[int, int, int], *, rectified: bool = False) -> None:
        super().__init__()
        self.rectified = rectified
        channels, height, width = shape
        # An entry of the matrix is one weight or zero; a convolution whose weights are their own numbers says which.
        count = conv.weight.numel()
        names = torch.arange(1.0, count + 1, device=conv.weight.device, dtype=torch.float64).view_as(conv.weight)
        basis = torch.eye(channels * height * width, device=names.device, dtype=names.dtype)
        basis = basis.view(-1, height, width, channels).permute(0, 3, 1, 2)
        made = nn.functional.conv2d(basis, names, None, conv.stride, conv.padding, conv.dilation, conv.groups)
        numbers = made.permute(0, 2, 3, 1).flatten(1).long() - 1
        self.shape, self.size = (made.shape[2], made.shape[3], made.shape[1]), len(basis)
        self.bands = _bands(torch.where(numbers < 0, count, numbers), count, made.shape[2], conv.weight)
        self.bias = conv.weight.new_zeros(numbers.shape[1])
        self.load(conv.weight, conv.bias)

    @torch.no_grad()
    def load(self, weight: Tensor, bias: Tensor | None) -> None:
        """Take over other weights."""
        numbers = torch.cat((weight.reshape(-1), weight.new_zeros(1)))
        for band in self.bands:
            torch.take(numbers, band.numbers, out=band.matrix)
        if bias is not None:
            self.bias.view(-1, len(bias)).copy_(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B,C,H,W] to [B,C',H',W']."""
        out: Tensor = _Product.apply(x.permute(0, 2, 3, 1).flatten(1), self)
        return out.view(-1, *self.shape).permute(0, 3, 1, 2)

    def apply_to(self, x: Tensor) -> Tensor:
        """Map rows [B,H*W*C] to [B,H'*W'*C'], outside of autograd."""
        out = x.new_empty(len(x), len(self.bias))
        for band in self.bands:
            torch.addmm(self.bias[band.made], x[:, band.taken], band.matrix, out=out[:, band.made])
        return out.relu_() if self.rectified else out

    def pull_back(self, grad: Tensor) -> Tensor:
        """Return the gradient for the input from that before the ReLU, rows as in `apply_to`."""
        back = grad.new_zeros(len(grad), self.size)
        for band in self.bands:
            back[:, band.taken].addmm_(grad[:, band.made], band.matrix.T)
        return back


class _Product(torch.autograd.Function):
    """The convolution with the gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: DenseConv) -> Tensor:
        out = layer.apply_to(x)
        ctx.layer = layer
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if ctx.layer.rectified:
            grad = torch.ops.aten.threshold_backward(grad, *ctx.saved_tensors, 0)
        return ctx.layer.pull_back(grad), None


def _bands(numbers: Tensor, nothing: int, rows: int, like: Tensor) -> list[_Band]:
    """Cut [inputs, outputs] into bands of output rows, without the inputs that a band does not depend on."""
    count = next(count for count in (_BANDS, 2, 1) if rows % count == 0)
    width, bands = numbers.shape[1] // count, []
    for made in (slice(k * width, (k + 1) * width) for k in range(count)):
        used = (numbers[:, made] < nothing).any(1).nonzero().flatten().tolist() or [0]
        taken = slice(used[0], used[-1] + 1)
        part = numbers[taken, made].contiguous()
        bands.append(_Band(taken, made, part, like.detach().new_empty(part.shape)))
    return bands
