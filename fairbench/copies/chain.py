"""A small network without branches, its layers and its gradient for images in C.

On a CPU autograd's calls, and what torch does before and after each layer, cost more than such layers themselves.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from fairbench.copies.native import library, pointer

__all__ = ["Chain"]

_SOURCE = Path(__file__).with_name("chain.c")
# Multiplications for an image up to which one core wins over torch on one thread, and over torch on several.
_LARGE, _SHARED = 1 << 23, 1 << 20

Indices = NDArray[np.int32]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("first", "source", "tap", "weight", "bias")),
        *((name, ctypes.c_int32) for name in ("places", "taken", "made", "rectified")),
    ]


class _Network(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("forth", "back", "sizes")),
        *((name, ctypes.c_int32) for name in ("count", "channels", "pixels")),
    ]


class _Links(NamedTuple):
    """By number of the link: places of a layer's input and output, and the tap of the kernel that is between them."""

    taken: Indices
    made: Indices
    tap: Indices


class _Affine:
    """A convolution or a linear layer, and the ReLU after it, its weights in the order that the C code reads them."""

    def __init__(
        self, module: nn.Conv2d | nn.Linear, links: _Links, taken: tuple[int, int], made: tuple[int, int]
    ) -> None:
        """`taken` and `made` are the places and channels of its input and of its output."""
        self.module, self.taken, self.made, self.rectified = module, taken, made, False
        taps = module.weight[0, 0].numel() if isinstance(module, nn.Conv2d) else taken[0]
        new = module.weight.detach().new_empty
        self._weight, self._transposed = new(taps, taken[1], made[1]), new(taps, made[1], taken[1])
        self._bias = None if module.bias is None else new(made[1])
        self._forth = _grouped(links.made, links.taken, links.tap, made[0])
        self._back = _grouped(links.taken, links.made, links.tap, taken[0])
        self.links = len(links.tap)
        self.load()

    @torch.no_grad()
    def load(self) -> None:
        """Take over the module's weights."""
        weight = self.module.weight.detach()
        by_tap = weight.flatten(2) if weight.dim() == 4 else weight.view(len(weight), self.taken[1], -1)
        self._weight.copy_(by_tap.permute(2, 1, 0))
        self._transposed.copy_(by_tap.permute(2, 0, 1))
        if self._bias is not None:
            assert self.module.bias is not None
            self._bias.copy_(self.module.bias)

    def forth(self) -> _Layer:
        bias = None if self._bias is None else self._bias.data_ptr()
        sizes = self.made[0], self.taken[1], self.made[1], int(self.rectified)
        return _Layer(*(_address(part) for part in self._forth), self._weight.data_ptr(), bias, *sizes)

    def back(self) -> _Layer:
        sizes = self.taken[0], self.made[1], self.taken[1], 0
        return _Layer(*(_address(part) for part in self._back), self._transposed.data_ptr(), None, *sizes)


class Chain:
    """Convolutions and linear layers, each with or without a ReLU after it, from images to logits, float32.

    The gradient is that for the images alone. An image's numbers do not depend on what other images are in its batch.
    Weights are those of the modules that it was made of; after a change of them, `load` takes them over.
    """

    def __init__(self, layers: list[_Affine], shape: torch.Size, code: ctypes.CDLL) -> None:
        self._layers, self._shape, self._code = layers, shape, code
        (pixels, channels), (_, self._classes) = layers[0].taken, layers[-1].made
        sizes = [pixels * channels, *(layer.made[0] * layer.made[1] for layer in layers)]
        self._numbers, self._largest = sum(sizes), max(sizes)
        self._sizes = np.array(sizes, dtype=np.int32)
        self._forth = (_Layer * len(layers))(*(layer.forth() for layer in layers))
        self._back = (_Layer * len(layers))(*(layer.back() for layer in layers))
        ways = ctypes.addressof(self._forth), ctypes.addressof(self._back)
        self._network = _Network(*ways, _address(self._sizes), len(layers), channels, pixels)
        self._block = int(code.fairbench_block())

    @classmethod
    def of(cls, traced: fx.GraphModule) -> Chain | None:
        """Make a chain of a traced network, its shapes propagated; None where it is none, or too large, or C fails."""
        layers, limit = _layers(traced), _LARGE if torch.get_num_threads() == 1 else _SHARED
        if not layers or sum(layer.links * layer.taken[1] * layer.made[1] for layer in layers) > limit:
            return None
        code = library(_SOURCE)
        return None if code is None else cls(layers, _shape(next(iter(traced.graph.nodes))), code)

    def load(self) -> None:
        """Take over the modules' weights."""
        for layer in self._layers:
            layer.load()

    def __call__(self, x: Tensor) -> Tensor:
        """Map [B,C,H,W] to [B,classes]."""
        if not (x.requires_grad and torch.is_grad_enabled()):
            return self.forward(x, keep=False)[0]
        logits: Tensor = _Pass.apply(x, self)
        return logits

    def logits_and_gradient(self, x: Tensor, loss: Callable[..., Tensor], *target: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, and the gradient for x of the sum of `loss(logits, *target)`.

        A loss that has a method `gradient` gives its own, of any other autograd makes it.
        """
        logits, made = self.forward(x)
        written_out = getattr(loss, "gradient", None)
        if written_out is not None:
            return logits, self.backward(written_out(logits, *target), made, x.shape)
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(loss(logits.requires_grad_(), *target).sum(), logits)
        return logits.detach(), self.backward(grad, made, x.shape)

    def forward(self, x: Tensor, *, keep: bool = True) -> tuple[Tensor, Tensor]:
        """Logits of x [B,C,H,W], and where it is to be kept what `backward` has to be given.

        Raises ValueError for images of another shape than the network was traced with.
        """
        if x.shape[1:] != self._shape:
            raise ValueError(f"images of shape {tuple(x.shape[1:])}, not {tuple(self._shape)}")
        x = x.detach().float().contiguous()
        blocks = -(-len(x) // self._block) if keep else 1
        made, logits = x.new_empty(blocks * self._block * self._numbers), x.new_empty(len(x), self._classes)
        pointers = map(pointer, (x, made, logits))
        self._code.fairbench_forward(ctypes.byref(self._network), *pointers, len(x), int(keep))
        return logits, made

    def backward(self, grad: Tensor, made: Tensor, shape: torch.Size) -> Tensor:
        """The gradient for images of a shape, from that for the logits and what `forward` made."""
        grad = grad.float().contiguous()
        work, out = grad.new_empty(2 * self._block * self._largest), grad.new_empty(shape)
        pointers = map(pointer, (grad, made, work, out))
        self._code.fairbench_backward(ctypes.byref(self._network), *pointers, len(grad))
        return out


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, chain: Chain) -> Tensor:
        logits, made = chain.forward(x)
        ctx.save_for_backward(made)
        ctx.chain, ctx.shape = chain, x.shape
        return logits

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.chain.backward(grad, *ctx.saved_tensors, ctx.shape), None


def _layers(traced: fx.GraphModule) -> list[_Affine]:
    """The layers of a chain from images to logits; none where the network is something else."""
    modules = dict(traced.named_modules())
    first, *rest, last = traced.graph.nodes
    if first.op != "placeholder" or last.op != "output" or any(len(node.users) != 1 for node in (first, *rest)):
        return []
    layers, before = list[_Affine](), first
    for node in rest:
        module = modules.get(node.target) if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d | nn.Linear):
            layer = _affine(module, _shape(before), _shape(node), layers[-1].made if layers else _sizes(_shape(first)))
            if layer is None:
                return []
            layers.append(layer)
        elif isinstance(module, nn.ReLU) and layers and not layers[-1].rectified:
            layers[-1].rectified = True
        elif not isinstance(module, nn.Flatten) or len(_shape(node)) != 1:
            return []
        before = node
    return layers if layers and layers[-1].made[0] == 1 else []


def _affine(
    module: nn.Conv2d | nn.Linear, taken: torch.Size, made: torch.Size, before: tuple[int, int]
) -> _Affine | None:
    """A layer from and to tensors of such shapes; `before` are the places and channels that the last one made."""
    if module.weight.dtype != torch.float32:
        return None
    if isinstance(module, nn.Linear):
        number = np.arange(before[0], dtype=np.int32)
        one_place = _Links(number, 0 * number, number)
        return _Affine(module, one_place, before, (1, made[0])) if len(taken) == 1 else None
    if module.groups > 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    return _Affine(module, _convolved(module, taken[1:], made[1:]), before, _sizes(made))


def _sizes(shape: torch.Size) -> tuple[int, int]:
    """Places and channels of [C,H,W] or [C]."""
    return shape[1:].numel(), shape[0]


def _shape(node: fx.Node) -> torch.Size:
    """What a node makes of one image."""
    shape: torch.Size = node.meta["tensor_meta"].shape[1:]
    return shape


def _convolved(conv: nn.Conv2d, taken: tuple[int, ...], made: tuple[int, ...]) -> _Links:
    """Which pixels of images of size `taken` a convolution adds up in which of its output."""
    row, column, i, j = np.indices((*made, *conv.kernel_size), dtype=np.int32).reshape(4, -1)
    y = row * conv.stride[0] + i * conv.dilation[0] - int(conv.padding[0])
    x = column * conv.stride[1] + j * conv.dilation[1] - int(conv.padding[1])
    inside = (y >= 0) & (y < taken[0]) & (x >= 0) & (x < taken[1])
    links = y * taken[1] + x, row * made[1] + column, i * conv.kernel_size[1] + j
    return _Links(*(part[inside] for part in links))


def _grouped(to: Indices, source: Indices, tap: Indices, places: int) -> tuple[Indices, Indices, Indices]:
    """Links sorted by the place they add to: where each place's begin, and the end of the last; sources; taps."""
    order = np.argsort(to, kind="stable")
    first = np.concatenate(([0], np.cumsum(np.bincount(to, minlength=places)))).astype(np.int32)
    return first, source[order], tap[order]


def _address(part: Indices) -> int:
    return part.ctypes.data
