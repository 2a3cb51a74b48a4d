"""The layers of a small network, read from its trace, in the form that the C code in `chain.c` takes."""

from __future__ import annotations

import ctypes
import operator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fairbench.copies.front import Front, is_constant, is_tensor, readers
from fairbench.copies.tracing import has_hooks

__all__ = ["Affine", "Indices", "Layer", "address", "read_layers"]

Indices = NDArray[np.int32]

_RELU = {torch.relu, torch.relu_, F.relu, F.relu_, "relu", "relu_"}
_FLATTEN = {torch.flatten, torch.reshape, "flatten", "view", "reshape"}
_ADD = {operator.add, torch.add, operator.iadd, "add", "add_"}
_MEAN = {torch.mean, "mean", F.adaptive_avg_pool2d}


class Layer(ctypes.Structure):
    """A layer in the C code's memory layout; `chain.c` explains each field."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("first", "source", "tap", "weight", "bias")),
        *((name, ctypes.c_int32) for name in ("places", "inputs", "outputs", "rectified")),
        *((name, ctypes.c_int32) for name in ("read", "added", "again", "added_again")),
    ]


class _Links(NamedTuple):
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
        links: _Links,
        inputs: tuple[int, int],
        outputs: tuple[int, int],
        read: int,
    ) -> None:
        """Without a module the layer is the mean of each channel over all places."""
        self.module, self.inputs, self.outputs, self.read = module, inputs, outputs, read
        self.rectified, self.added = False, -1
        taps = int(links.tap.max()) + 1
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


def read_layers(traced: fx.GraphModule, front: Front) -> list[Affine]:
    """Return the layers of a trace with propagated shapes, or an empty list if it holds any other operation.

    `front` is the normalisation that the images pass first.
    """
    reader = _Reader(traced, front)
    *nodes, last = traced.graph.nodes
    for node in nodes:
        if not is_tensor(node) or is_constant(node) or node in reader.made or node in front.steps or node is nodes[0]:
            continue
        if not reader.take(node):
            return []
    layers = reader.layers
    used = {tensor for layer in layers for tensor in (layer.read, layer.added)} >= set(range(len(layers)))
    whole = used and last.op == "output" and reader.made.get(last.args[0], 0) == len(layers) > 0
    return layers if whole and layers[-1].outputs[0] == 1 else []


class _Reader:
    """The layers read so far, and for each node the number of its tensor."""

    def __init__(self, traced: fx.GraphModule, front: Front) -> None:
        self.modules, self.layers = dict(traced.named_modules()), list[Affine]()
        self.made: dict[fx.Node, int] = {front.last: 0}
        self._sizes = [_sizes(_shape(front.last))]

    def take(self, node: fx.Node) -> bool:
        """Read the next node; return False if it is no part of a supported layer."""
        given = [value for value in node.all_input_nodes if is_tensor(value) and not is_constant(value)]
        if not given or any(value not in self.made for value in given) or not _shape(node):
            return False
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        if module is not None and has_hooks(module):
            return False
        kept = _shape(node) == _shape(given[0])
        if len(given) == 2:
            return node.target in _ADD and not node.kwargs and kept and self._add(node, given)
        before = given[0]
        if isinstance(module, nn.Identity | nn.Dropout) or (
            isinstance(module, nn.Flatten) or (module is None and node.target in _FLATTEN and _is_flat(node))
        ):
            self.made[node] = self.made[before]
            return isinstance(module, nn.Identity | nn.Dropout) or _is_flat(node)
        if isinstance(module, nn.ReLU) or (module is None and node.target in _RELU):
            return self._rectify(node, before)
        layer = self._layer(node, module, before)
        if layer is None:
            return False
        self.layers.append(layer)
        self._sizes.append(layer.outputs)
        self.made[node] = len(self.layers)
        return True

    def _layer(self, node: fx.Node, module: nn.Module | None, before: fx.Node) -> Affine | None:
        number = self.made[before]
        inputs, size = self._sizes[number], _shape(node)
        if isinstance(module, nn.Linear) and len(_shape(before)) == 1 and module.weight.dtype == torch.float32:
            places = np.arange(inputs[0], dtype=np.int32)
            return Affine(module, _Links(places, 0 * places, places), inputs, (1, size[0]), number)
        if isinstance(module, nn.Conv2d) and _is_plain(module) and len(_shape(before)) == 3:
            return Affine(module, _convolved(module, _shape(before)[1:], size[1:]), inputs, _sizes(size), number)
        if _is_mean(node, module) and len(_shape(before)) == 3 and size[1:].numel() == 1 and size[0] == inputs[1]:
            places = np.arange(inputs[0], dtype=np.int32)
            return Affine(None, _Links(places, 0 * places, 0 * places), inputs, (1, size[0]), number)
        return None

    def _alone(self, node: fx.Node) -> bool:
        """Tell whether a single node reads this layer's output in its present form."""
        number = self.made[node]
        same = [each for each, tensor in self.made.items() if tensor == number]
        return number > 0 and not self.layers[number - 1].rectified and all(len(readers(each)) == 1 for each in same)

    def _rectify(self, node: fx.Node, before: fx.Node) -> bool:
        if not self._alone(before):
            return False
        self.made[node] = self.made[before]
        self.layers[self.made[before] - 1].rectified = True
        return True

    def _add(self, node: fx.Node, given: list[fx.Node]) -> bool:
        """Let the later of two layers add the earlier one's output."""
        earlier, later = sorted(given, key=lambda each: self.made[each])
        if not self._alone(later) or self.made[earlier] == self.made[later]:
            return False
        layer = self.layers[self.made[later] - 1]
        if layer.added >= 0:
            return False
        layer.added, self.made[node] = self.made[earlier], self.made[later]
        return True


def address(part: Indices) -> int:
    """Return the address of an array's data; the caller keeps the array alive."""
    return part.ctypes.data


def _is_plain(conv: nn.Conv2d) -> bool:
    plain = conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return plain and conv.weight.dtype == torch.float32


def _is_mean(node: fx.Node, module: nn.Module | None) -> bool:
    """Tell whether a node with one output place is the mean over all places of its input."""
    if node.op == "call_module":
        if isinstance(module, nn.AvgPool2d):
            return module.padding in (0, (0, 0)) and module.divisor_override is None
        return isinstance(module, nn.AdaptiveAvgPool2d)
    if node.target == F.avg_pool2d:
        return len(node.args) <= 3 and not node.kwargs.keys() - {"kernel_size", "stride"}
    return node.target in _MEAN and "dtype" not in node.kwargs


def _is_flat(node: fx.Node) -> bool:
    """Tell whether a node has the shape [B,numbers]."""
    return len(node.meta["tensor_meta"].shape) == 2 and node.meta["tensor_meta"].shape[0] == 1


def _sizes(shape: torch.Size) -> tuple[int, int]:
    """Return (places, channels) of the shape [C,H,W] or [C]."""
    return shape[1:].numel(), shape[0]


def _shape(node: fx.Node) -> torch.Size:
    """Return the shape of a node's value for one image."""
    shape: torch.Size = node.meta["tensor_meta"].shape[1:]
    return shape


def _convolved(conv: nn.Conv2d, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> _Links:
    """Return the input pixels that feed each output pixel of a convolution."""
    row, column, i, j = np.indices((*outputs, *conv.kernel_size), dtype=np.int32).reshape(4, -1)
    y = row * conv.stride[0] + i * conv.dilation[0] - int(conv.padding[0])
    x = column * conv.stride[1] + j * conv.dilation[1] - int(conv.padding[1])
    inside = (y >= 0) & (y < inputs[0]) & (x >= 0) & (x < inputs[1])
    links = y * inputs[1] + x, row * outputs[1] + column, i * conv.kernel_size[1] + j
    return _Links(*(part[inside] for part in links))


def _grouped(to: Indices, source: Indices, tap: Indices, places: int) -> tuple[Indices, Indices, Indices]:
    """Sort links by the place that they write to; return the first link of each place and the end, the sources, the
    taps.
    """
    order = np.argsort(to, kind="stable")
    first = np.concatenate(([0], np.cumsum(np.bincount(to, minlength=places)))).astype(np.int32)
    return first, source[order], tap[order]
