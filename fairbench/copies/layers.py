"""The layers of a small network, read from its trace, in the form that the C code in `chain.c` takes."""

from __future__ import annotations

import operator

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional as F

from fairbench.copies.affine import Affine, Links
from fairbench.copies.front import Front, is_constant, is_tensor, readers
from fairbench.copies.tracing import has_hooks

__all__ = ["read_layers"]

_RELU = {torch.relu, torch.relu_, F.relu, F.relu_, "relu", "relu_"}
_FLATTEN = {torch.flatten, torch.reshape, "flatten", "view", "reshape"}
_ADD = {operator.add, torch.add, operator.iadd, "add", "add_"}
_MEAN = {torch.mean, "mean", F.adaptive_avg_pool2d}


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
            return Affine(module, Links(places, 0 * places, places), inputs, (1, size[0]), number)
        if isinstance(module, nn.Conv2d) and _is_plain(module) and len(_shape(before)) == 3:
            return Affine(module, _convolved(module, _shape(before)[1:], size[1:]), inputs, _sizes(size), number)
        if _is_mean(node, module) and len(_shape(before)) == 3 and size[1:].numel() == 1 and size[0] == inputs[1]:
            places = np.arange(inputs[0], dtype=np.int32)
            return Affine(None, Links(places, 0 * places, 0 * places), inputs, (1, size[0]), number)
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


def _convolved(conv: nn.Conv2d, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Links:
    """Return the input pixels that feed each output pixel of a convolution."""
    row, column, i, j = np.indices((*outputs, *conv.kernel_size), dtype=np.int32).reshape(4, -1)
    y = row * conv.stride[0] + i * conv.dilation[0] - int(conv.padding[0])
    x = column * conv.stride[1] + j * conv.dilation[1] - int(conv.padding[1])
    inside = (y >= 0) & (y < inputs[0]) & (x >= 0) & (x < inputs[1])
    links = y * inputs[1] + x, row * outputs[1] + column, i * conv.kernel_size[1] + j
    return Links(*(part[inside] for part in links))
