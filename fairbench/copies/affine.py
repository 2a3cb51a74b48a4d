"""One layer of a small network, its weights and its memory in the form that the C code in `chain.c` takes."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Affine", "Indices", "Layer", "Links", "address"]

Indices = NDArray[np.int32]


class Layer(ctypes.Structure):
    """A layer in the C code's memory layout; `chain.c` explains each field."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("first", "source", "tap", "weight", "bias")),
        *((name, ctypes.c_int32) for name in ("places", "inputs", "outputs", "rectified")),
        *((name, ctypes.c_int32) for name in ("read", "added", "again", "added_again")),
    ]


class Links(NamedTuple):
    """Pairs of an input place and an output place, and the kernel tap that connects them, as three arrays of one
    length.
    """

    inputs: Indices
    outputs: Indices
    tap: Indices


class Affine:
    """A convolution, linear layer or mean over all places, with an optional shortcut and ReLU.

    `inputs` and `outputs` are (places, channels) of the tensors that it reads and writes. Tensor 0 is the images,
    tensor k the output of layer k. The layer reads tensor `read`, and adds tensor `added` to its output unless `added`
    is -1.
    """

    def __init__(
        self,
        module: nn.Conv2d | nn.Linear | None,
        links: Links,
        inputs: tuple[int, int],
        outputs: tuple[int, int],
        read: int,
    ) -> None:
        """Without a module the layer is the mean of each channel over all places."""
        self.module, self.inputs, self.outputs, self.read = module, inputs, outputs, read
        self.rectified, self.added = False, -1
        taps = self._by_tap().shape[2]  # of which a small image may use some alone
        like = torch.empty(0) if module is None else module.weight.detach()
        self._weight, self._transposed = (
            like.new_empty(taps, inputs[1], outputs[1]),
            like.new_empty(taps, outputs[1], inputs[1]),
        )
        self._bias = None if module is None or module.bias is None else like.new_empty(outputs[1])
        self._forward = _grouped(links.outputs, links.inputs, links.tap, outputs[0])
        self._backward = _grouped(links.inputs, links.outputs, links.tap, inputs[0])
        self.products = len(links.tap) * inputs[1] * outputs[1]
        self.load()

    @torch.no_grad()
    def load(self) -> None:
        """Copy the module's weights."""
        by_tap = self._by_tap()
        self._weight.copy_(by_tap.permute(2, 1, 0))
        self._transposed.copy_(by_tap.permute(2, 0, 1))
        if self._bias is not None:
            assert self.module is not None
            assert self.module.bias is not None
            self._bias.copy_(self.module.bias)

    def _by_tap(self) -> Tensor:
        """Return the weights as [outputs, inputs, taps]."""
        if self.module is None:
            return torch.eye(self.outputs[1]).unsqueeze(2) / self.inputs[0]
        weight = self.module.weight.detach()
        return weight.flatten(2) if weight.dim() == 4 else weight.view(len(weight), self.inputs[1], -1)

    def forward(self) -> Layer:
        """Return the layer's forward pass."""
        bias = None if self._bias is None else self._bias.data_ptr()
        sizes = self.outputs[0], self.inputs[1], self.outputs[1], int(self.rectified)
        return Layer(*map(address, self._forward), self._weight.data_ptr(), bias, *sizes, self.read, self.added, 0, 0)

    def backward(self, again: bool, added_again: bool) -> Layer:
        """Return the layer's backward pass, from the gradient of its output to that of its input.

        `again` and `added_again` say whether a later layer has already written to the gradients of tensors `read` and
        `added`.
        """
        sizes = self.inputs[0], self.outputs[1], self.inputs[1], 0
        pointers = *map(address, self._backward), self._transposed.data_ptr(), None
        return Layer(*pointers, *sizes, self.read, self.added, int(again), int(added_again))


def address(part: Indices) -> int:
    """Return the address of an array's data; the caller keeps the array alive."""
    return part.ctypes.data


def _grouped(to: Indices, source: Indices, tap: Indices, places: int) -> tuple[Indices, Indices, Indices]:
    """Sort links by the place that they write to; return the first link of each place and the end, the sources, the
    taps.
    """
    order = np.argsort(to, kind="stable")
    first = np.concatenate(([0], np.cumsum(np.bincount(to, minlength=places)))).astype(np.int32)
    return first, source[order], tap[order]
