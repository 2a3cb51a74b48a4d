"""3x3 convolutions with a quarter of the multiplications: on a CPU these win over the direct ones of wide layers.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016: F(4x4, 3x3), in which every
4 x 4 outputs are made of the 6 x 6 inputs that they depend on. The paper interpolates at 0, +-1, +-2 and infinity; here
it is +-5/8 and +-3/2, which lose less to rounding.
"""

from __future__ import annotations

import ctypes
from ctypes import byref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairbench.copies.native import library, pointer

__all__ = ["WinogradConv", "pays"]

_SOURCE = Path(__file__).with_name("winograd.c")

_A, _B = 5 / 8, 3 / 2
_MADE, _TAKEN = 4, 6
# Bytes of transformed input that stay in a core's cache, and rows of a matrix product below which it is slow.
_CACHE = 5 << 18
_ROWS = 128
_CHANNELS = 32
# The transforms run on one thread, for which more of torch's would wait.
_THREADS = 4


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("count", "height", "width", "channels")),
        *((name, ctypes.c_float) for name in ("a", "b")),
    ]


def pays(conv: nn.Conv2d, height: int, width: int) -> bool:
    """Whether a convolution of images of a size is one that this module can do here, and wide enough to gain by it."""
    plain = conv.kernel_size == (3, 3) and conv.stride == conv.padding == conv.dilation == (1, 1) and conv.groups == 1
    plain = plain and conv.padding_mode == "zeros" and conv.weight.dtype == torch.float32
    wasted = _MADE**2 * _tiles(height) * _tiles(width) / (height * width)
    wide = min(conv.in_channels, conv.out_channels) >= _CHANNELS
    return plain and wide and wasted < 1.5 and torch.get_num_threads() <= _THREADS and library(_SOURCE) is not None


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
    code = library(_SOURCE)
    assert code is not None
    x = x.float().permute(0, 2, 3, 1).contiguous()
    count, height, width, channels = x.shape
    made, tiles = weight.shape[2], _tiles(height) * _tiles(width)
    most = max(1, _CACHE // (4 * _TAKEN**2 * tiles * max(channels, made)), _ROWS // tiles)
    n = max(1, -(-count // max(1, -(-count // most))))
    out = x.new_empty(count, height, width, made)
    points, products = (x.new_empty(_TAKEN**2 * n * tiles * each) for each in (channels, made))
    for first in range(0, count, n):
        some = min(n, count - first)
        rows = _TAKEN**2 * some * tiles
        at_points = points[: rows * channels].view(_TAKEN**2, -1, channels)
        multiplied = products[: rows * made].view(_TAKEN**2, -1, made)
        taken, given = (_Shape(some, height, width, each, _A, _B) for each in (channels, made))
        code.fairbench_points(byref(taken), pointer(x[first]), pointer(at_points))
        torch.bmm(at_points, weight, out=multiplied)
        shift = None if bias is None else pointer(bias)
        code.fairbench_outputs(byref(given), pointer(multiplied), shift, int(rectified), pointer(out[first]))
    return out.permute(0, 3, 1, 2)
