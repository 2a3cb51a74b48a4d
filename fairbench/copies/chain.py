"""A small network in C: its logits, and its gradient with respect to the images.

On a CPU the calls of autograd and of torch's operations cost more than the arithmetic of such layers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fairbench.copies.affine import Affine, Layer, address
from fairbench.copies.front import Front
from fairbench.copies.layers import read_layers
from fairbench.copies.native import library, pointer

__all__ = ["Chain", "can_compile"]

_SOURCE = Path(__file__).with_name("chain.c")
# The most multiplications an image for which one core is faster than torch on one thread, and on several threads.
_LARGE, _SHARED = 1 << 23, 1 << 20


class _Network(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("forward", "backward", "starts", "scale", "shift")),
        *((name, ctypes.c_int32) for name in ("count", "channels", "pixels")),
    ]


def can_compile() -> bool:
    """Tell whether this machine compiles and loads the C code. The first call on a machine takes about a second."""
    return library(_SOURCE) is not None


class Chain:
    """Convolutions, linear layers and means from images to logits, each with an optional shortcut and ReLU.

    All numbers are float32. A normalisation in front of the layers is part of the chain. The gradient is taken with
    respect to the images only. The result for an image does not depend on the other images of its batch. Weights are
    copied from the modules; call `load` after they have changed.
    """

    def __init__(self, front: Front, layers: list[Affine], shape: torch.Size, code: ctypes.CDLL) -> None:
        self._front, self._layers, self._shape, self._code = front, layers, shape, code
        self.products = sum(layer.products for layer in layers)
        pixels, channels = shape[1:].numel(), shape[0]
        self._classes = layers[-1].outputs[1]
        sizes = [pixels * channels, *(layer.outputs[0] * layer.outputs[1] for layer in layers)]
        self._starts = np.cumsum([0, *sizes]).astype(np.int32)
        self._forward = (Layer * len(layers))(*(layer.forward() for layer in layers))
        self._backward = (Layer * len(layers))(*_backward(layers))
        self._scale, self._shift = front.scale_and_shift()
        normalised = (self._scale.data_ptr(), self._shift.data_ptr()) if front.steps else (None, None)
        passes = ctypes.addressof(self._forward), ctypes.addressof(self._backward)
        self._network = _Network(*passes, address(self._starts), *normalised, len(layers), channels, pixels)
        self._block = int(code.fairbench_block())
        self.numbers = int(self._starts[-1])  # that a pass keeps for an image
        self._spare = list[Tensor]()

    @classmethod
    def of(cls, traced: fx.GraphModule, limit: int | None = None) -> Chain | None:
        """Make a chain from a traced network with propagated shapes.

        Returns None if the network has other layers or is too large, or if the C code cannot be compiled. `limit` is
        the largest number of multiplications an image, by default the measured one.
        """
        if limit is None:
            limit = _LARGE if torch.get_num_threads() == 1 else _SHARED
        front = Front(traced)
        layers = read_layers(traced, front)
        if not layers or sum(layer.products for layer in layers) > limit:
            return None
        code = library(_SOURCE)
        shape = next(iter(traced.graph.nodes)).meta["tensor_meta"].shape[1:]
        return None if code is None else cls(front, layers, shape, code)

    @torch.no_grad()
    def load(self) -> None:
        """Copy the modules' weights."""
        for layer in self._layers:
            layer.load()
        for ours, new in zip((self._scale, self._shift), self._front.scale_and_shift(), strict=True):
            ours.copy_(new)

    def __call__(self, x: Tensor) -> Tensor:
        """Map [B,C,H,W] to [B,classes]."""
        if not (x.requires_grad and torch.is_grad_enabled()):
            return self.forward(x, keep=False)[0]
        logits: Tensor = _Pass.apply(x, self)
        return logits

    def logits_and_gradient(self, x: Tensor, loss: Callable[..., Tensor], *target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, and the gradient of the sum of `loss(logits, *target)` with respect to x.

        If the loss has a method `gradient`, that gives its gradient with respect to the logits; otherwise autograd
        does.
        """
        logits, values = self.forward(x, self._room(len(x)))
        written_out = getattr(loss, "gradient", None)
        if written_out is not None:
            grad = written_out(logits, *target)
        else:
            with torch.enable_grad():
                (grad,) = torch.autograd.grad(loss(logits.requires_grad_(), *target).sum(), logits)
        found = self.backward(grad, values, x.shape)
        self._spare[:] = [values]
        return logits.detach(), found

    def forward(self, x: Tensor, room: Tensor | None = None, *, keep: bool = True) -> tuple[Tensor, Tensor]:
        """Return the logits of x [B,C,H,W] and, with `keep`, the values of all layers, which `backward` reads.

        The values are written to `room` where it is given. Raises ValueError for images of another shape than the
        network was traced with.
        """
        if x.shape[1:] != self._shape:
            raise ValueError(f"images of shape {tuple(x.shape[1:])}, not {tuple(self._shape)}")
        x = x.detach().float().contiguous()
        values = x.new_empty(self._numbers(len(x) if keep else 1)) if room is None else room
        logits = x.new_empty(len(x), self._classes)
        pointers = map(pointer, (x, values, logits))
        self._code.fairbench_forward(ctypes.byref(self._network), *pointers, len(x), int(keep))
        return logits, values

    def _numbers(self, images: int) -> int:
        """Return how many values the layers have for so many images, in whole blocks."""
        return -(-images // self._block) * self._block * self.numbers

    def _room(self, images: int) -> Tensor:
        """Return a float32 buffer for the values of so many images: that of the last batch if it is large enough.

        The operating system clears the pages of a new buffer, which takes as long as a small network's forward pass.
        """
        numbers, spare = self._numbers(images), self._spare.pop() if self._spare else None
        return spare if spare is not None and len(spare) >= numbers else torch.empty(numbers, dtype=torch.float32)

    def backward(self, grad: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
        """Return the gradient for images of a shape, from the gradient for the logits and the values that `forward`
        returned.
        """
        grad = grad.float().contiguous()
        work, out = grad.new_empty(self._block * self.numbers), grad.new_empty(shape)
        pointers = map(pointer, (grad, values, work, out))
        self._code.fairbench_backward(ctypes.byref(self._network), *pointers, len(grad))
        return out


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, chain: Chain) -> Tensor:
        logits, values = chain.forward(x)
        ctx.save_for_backward(values)
        ctx.chain, ctx.shape = chain, x.shape
        return logits

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.chain.backward(grad, *ctx.saved_tensors, ctx.shape), None


def _backward(layers: list[Affine]) -> list[Layer]:
    """The layers of the backward pass, in forward order; each is told which gradients already hold a term."""
    begun, layers_back = set[int](), list[Layer]()
    for layer in reversed(layers):
        added_again = layer.added in begun or layer.added == layer.read
        layers_back.append(layer.backward(layer.read in begun, added_again))
        begun |= {layer.read, layer.added}
    return layers_back[::-1]
