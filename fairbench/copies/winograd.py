"""3x3 convolutions with a quarter of the multiplications: on a CPU these win over the direct ones of wide layers.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016: F(4x4, 3x3), in which every
4 x 4 outputs are made of the 6 x 6 inputs that they depend on. The paper interpolates at 0, +-1, +-2 and infinity; here
it is +-5/8 and +-3/2, which lose less to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["WinogradConv", "pays"]

_A, _B = 5 / 8, 3 / 2
_MADE, _TAKEN = 4, 6
# Bytes of transformed input that stay in a core's cache, and rows of a matrix product below which it is slow.
_CACHE = 5 << 18
_ROWS = 128
_CHANNELS, _SIZE = 64, 1024


def pays(conv: nn.Conv2d, height: int, width: int) -> bool:
    """Whether a convolution of images of a size is one that this module can do, and wide enough to gain by it."""
    plain = conv.kernel_size == (3, 3) and conv.stride == conv.padding == conv.dilation == (1, 1) and conv.groups == 1
    wasted = _MADE**2 * _tiles(height) * _tiles(width) / (height * width)
    narrowest = min(conv.in_channels, conv.out_channels)
    wide = narrowest >= _CHANNELS and narrowest * min(height, width) >= _SIZE
    return plain and conv.padding_mode == "zeros" and wide and wasted < 1.5


class WinogradConv(nn.Module):
    """A convolution for which `pays` holds, its weights held still, and the ReLU after it.

    Inputs and outputs are [B,C,H,W] in channels-last order. Its matrices take four times the memory of its weights, and
    as much again from the first gradient on.
    """

    def __init__(self, conv: nn.Conv2d, *, rectified: bool = False) -> None:
        super().__init__()
        self.rectified = rectified
        self.load(conv.weight, conv.bias)

    @torch.no_grad()
    def load(self, weight: Tensor, bias: Tensor | None) -> None:
        """Take over other weights."""
        self.weight, self.bias = weight.detach(), None if bias is None else bias.detach()
        self.forwards = _transformed(self.weight)
        self._backwards: Tensor | None = None

    @property
    def backwards(self) -> Tensor:
        """The gradient for the input is a convolution too, with the weights turned by half a circle."""
        if self._backwards is None:
            self._backwards = _transformed(self.weight.flip(2, 3).transpose(0, 1))
        return self._backwards

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [B,C,H,W] to [B,C',H,W]."""
        out: Tensor = _Convolution.apply(x, self)
        return out


class _Convolution(torch.autograd.Function):
    """The convolution with the gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: WinogradConv) -> Tensor:
        out = _convolved(x, layer.forwards, layer.bias, layer.rectified)
        ctx.layer = layer
        if layer.rectified:
            ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if ctx.layer.rectified:
            grad = torch.ops.aten.threshold_backward(grad, *ctx.saved_tensors, 0)
        return _convolved(grad, ctx.layer.backwards), None


def _tiles(side: int) -> int:
    return -(-side // _MADE)


def _transformed(weight: Tensor) -> Tensor:
    """Weights [C',C,3,3] at pairs of points, [36,C,C'], in the order 0, a, -a, b, -b, infinity."""
    a, b = _A * _A, _B * _B
    rows = [[1 / (a * b), 0.0, 0.0]]
    # over the product of differences, times the square of the point, which `_outputs` takes back
    for point, other in ((_A, b), (_B, a)):
        scale = 0.5 / (point * point - other)
        rows += [[scale, sign * scale * point, scale * point * point] for sign in (1.0, -1.0)]
    points = torch.tensor([*rows, [0.0, 0.0, 1.0]]).to(weight)
    pairs = torch.kron(points, points)  # [36,9]
    return (pairs @ weight.permute(2, 3, 1, 0).flatten(0, 1).flatten(1)).view(_TAKEN**2, *weight.shape[1::-1])


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None = None, rectified: bool = False) -> Tensor:
    """Convolve some images at a time, so that what lies between stays in the cache."""
    x = x.permute(0, 2, 3, 1)
    count, height, width, channels = x.shape
    down, across, made = _tiles(height), _tiles(width), weight.shape[2]
    bytes_each = 4 * _TAKEN**2 * down * across * max(channels, made)
    most = max(1, _CACHE // bytes_each, _ROWS // (down * across))
    n = -(-count // -(-count // most))
    out = x.new_empty(-(-count // n) * n, down, _MADE, across * _MADE, made)
    padded = x.new_zeros(n, down * _MADE + 2, across * _MADE + 2, channels)
    halfway = x.new_empty(_TAKEN, n, down, across * _MADE + 2, channels)
    points = x.new_empty(_TAKEN, _TAKEN, n, down, across, channels)
    products = x.new_empty(_TAKEN**2, n * down * across, made)
    back = x.new_empty(_TAKEN, n, down, across, _MADE, made)
    rows, columns = padded.unfold(1, _TAKEN, _MADE).unbind(-1), halfway.unfold(3, _TAKEN, _MADE).unbind(-1)
    for first in range(0, count, n):
        piece, made_here = x[first : first + n], out[first : first + n]
        padded[: len(piece), 1 : height + 1, 1 : width + 1] = piece
        _inputs(rows, halfway.unbind(0))
        _inputs(columns, points.unbind(1))
        torch.bmm(points.view(_TAKEN**2, -1, channels), weight, out=products)
        _outputs(products.view(_TAKEN, _TAKEN, n, down, across, made).unbind(1), back.unbind(4))
        _outputs(back.flatten(3, 4).unbind(0), made_here.unbind(2))
        if bias is not None:
            made_here += bias
        if rectified:
            made_here.relu_()
    return out.view(-1, down * _MADE, across * _MADE, made)[:count, :height, :width].permute(0, 3, 1, 2)


def _inputs(d: tuple[Tensor, ...], out: tuple[Tensor, ...]) -> None:
    """Six values that follow each other at six points: the paper's transposed B."""
    a, b = _A * _A, _B * _B
    torch.sub(d[4], d[2], alpha=a + b, out=out[0]).add_(d[0], alpha=a * b)
    torch.sub(d[5], d[3], alpha=a + b, out=out[5]).add_(d[1], alpha=a * b)
    for plus, minus, point, other in ((1, 2, _A, b), (3, 4, _B, a)):
        odd = torch.sub(d[3], d[1], alpha=other)
        torch.sub(d[4], d[2], alpha=other, out=out[plus])
        torch.sub(out[plus], odd, alpha=point, out=out[minus])
        out[plus].add_(odd, alpha=point)


def _outputs(m: tuple[Tensor, ...], out: tuple[Tensor, ...]) -> None:
    """Four outputs of the products at six points: the paper's transposed A, its columns over the point's square."""
    even, odd, even_far, odd_far = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    torch.add(m[0], even, alpha=1 / _A**2, out=out[0]).add_(even_far, alpha=1 / _B**2)
    torch.mul(odd, 1 / _A, out=out[1]).add_(odd_far, alpha=1 / _B)
    torch.add(even, even_far, out=out[2])
    torch.add(m[5], odd, alpha=_A, out=out[3]).add_(odd_far, alpha=_B)
