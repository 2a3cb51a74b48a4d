"""A small network without branches, its gradient written out: on a CPU autograd's calls cost more than its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from fairbench.copies.dense import DenseConv

__all__ = ["Chain"]


class _Layer(Protocol):
    """Works on rows in channels-last order, [B,H*W*C]; gradients are those before its ReLU, if it has one."""

    rectified: bool

    def apply_to(self, x: Tensor) -> Tensor: ...

    def pull_back(self, grad: Tensor) -> Tensor: ...


class Chain:
    """Convolutions, each with or without a ReLU after it, and a linear layer at the end, from images to logits.

    The gradient is that for the images alone. Weights are those of the modules that it was made of; after a change of
    them, `load` takes them over.
    """

    def __init__(self, layers: list[_Layer], linear: nn.Linear, shape: tuple[int, ...]) -> None:
        self._layers, self._linear, self._shape = layers, linear, shape
        self.load()

    @classmethod
    def of(cls, traced: fx.GraphModule) -> Chain | None:
        """Make a chain of a traced network, its shapes propagated; None where it is none, or not of small images."""
        modules = dict(traced.named_modules())
        nodes = [node for node in traced.graph.nodes if node.op != "output"]
        if nodes[0].op != "placeholder" or any(len(node.users) != 1 for node in nodes):
            return None
        layers, last = list[_Layer](), nodes[0]
        rest = iter(nodes[1:])
        for node in rest:
            module = modules.get(node.target) if node.op == "call_module" else None
            shape = tuple(last.meta["tensor_meta"].shape[1:])
            if isinstance(module, DenseConv):
                layers.append(module)
            elif isinstance(module, nn.Conv2d) and module.padding_mode == "zeros":
                kind = _HalvingConvolution if _HalvingConvolution.fits(module, shape) else _Convolution
                layers.append(kind(module, shape, tuple(node.meta["tensor_meta"].shape[1:])))
            elif isinstance(module, nn.ReLU) and layers and isinstance(layers[-1], _Convolution):
                layers[-1].rectified = True
            elif isinstance(module, nn.Flatten) and any(isinstance(layer, DenseConv) for layer in layers):
                linear = [modules.get(after.target) for after in rest]
                return cls(layers, linear[0], shape) if len(linear) == 1 and isinstance(linear[0], nn.Linear) else None
            else:
                return None
            last = node
        return None

    def load(self) -> None:
        """Take over the modules' weights, those of the linear layer with its inputs in another order."""
        for layer in self._layers:
            if isinstance(layer, _Convolution):
                layer.load()
        weight = self._linear.weight.detach()
        self._matrix = weight.view(-1, *self._shape).permute(2, 3, 1, 0).reshape(weight.shape[1], -1)

    def __call__(self, x: Tensor) -> Tensor:
        """Map [B,C,H,W] to [B,classes]."""
        logits: Tensor = _Pass.apply(x, self)
        return logits

    def logits_and_gradient(self, x: Tensor, loss: Callable[..., Tensor], *target: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, and the gradient for x of the sum of `loss(logits, *target)`, which alone autograd sees."""
        with torch.no_grad():
            *made, logits = self.values(x)
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(loss(logits.requires_grad_(), *target).sum(), logits)
        with torch.no_grad():
            return logits.detach(), self.pull_back(grad, made, x.shape)

    def values(self, x: Tensor) -> list[Tensor]:
        """What each layer makes of x [B,C,H,W], the logits last."""
        made = [x.permute(0, 2, 3, 1).flatten(1)]
        for layer in self._layers:
            made.append(layer.apply_to(made[-1]))
        bias = self._linear.bias
        made.append(made[-1] @ self._matrix if bias is None else torch.addmm(bias, made[-1], self._matrix))
        return made[1:]

    def pull_back(self, grad: Tensor, made: Iterable[Tensor], shape: Iterable[int]) -> Tensor:
        """The gradient for images of a shape, from that for the logits and what the other layers made."""
        grad = grad @ self._matrix.T
        for layer, out in zip(reversed(self._layers), reversed(list(made)), strict=True):
            if layer.rectified:
                torch.ops.aten.threshold_backward.grad_input(grad, out, 0, grad_input=grad)
            grad = layer.pull_back(grad)
        return _images(grad, tuple(shape)[1:])


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, chain: Chain) -> Tensor:
        *made, logits = chain.values(x)
        ctx.save_for_backward(*made)
        ctx.chain, ctx.shape = chain, x.shape
        return logits

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.chain.pull_back(grad, ctx.saved_tensors, ctx.shape), None


class _Convolution:
    """A convolution as it is; weights are read when it is called."""

    rectified = False

    def __init__(self, conv: nn.Conv2d, shape: tuple[int, ...], made: tuple[int, ...]) -> None:
        self.conv, self.shape, self.made = conv, shape, made
        self.load()

    def load(self) -> None:
        """Take over weights, where they are kept in another form."""

    def apply_to(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(_images(x, self.shape)).permute(0, 2, 3, 1).flatten(1)
        return out.relu_() if self.rectified else out

    def pull_back(self, grad: Tensor) -> Tensor:
        grad = _images(grad, self.made)
        conv, shape = self.conv, (len(grad), *self.shape)
        like = torch.empty(shape, dtype=grad.dtype, memory_format=torch.channels_last)
        settings = conv.stride, conv.padding, conv.dilation, False, (0, 0), conv.groups
        back = torch.ops.aten.convolution_backward(grad, like, conv.weight, None, *settings, (True, False, False))[0]
        flat: Tensor = back.permute(0, 2, 3, 1).flatten(1)
        return flat


class _HalvingConvolution(_Convolution):
    """A 3x3 convolution of stride 2 on sides of even length, its gradient as a convolution of stride 1.

    The gradient for 2 x 2 inputs comes from the 2 x 2 outputs that they have a part in.
    """

    # The kernel's row by which an output, this one or the next, depends on the first and on the second input of a pair.
    _ROWS = ((1, 2), (None, 0))

    @classmethod
    def fits(cls, conv: nn.Conv2d, shape: tuple[int, ...]) -> bool:
        plain = conv.kernel_size == (3, 3) and conv.dilation == conv.padding == (1, 1) and conv.groups == 1
        return plain and conv.stride == (2, 2) and shape[1] % 2 == shape[2] % 2 == 0

    @torch.no_grad()
    def load(self) -> None:
        weight = self.conv.weight
        made, taken = weight.shape[:2]
        kernel = weight.new_zeros(
            2, 2, taken, 2, 2, made
        )  # [pair's row, pair's column, C, kernel's rows and columns, C']
        for (i, rows), (j, columns) in product(enumerate(self._ROWS), repeat=2):
            for (r, row), (c, column) in product(enumerate(rows), enumerate(columns)):
                if row is not None and column is not None:
                    kernel[r, c, :, i, j] = weight[:, :, row, column].T
        self._kernel = kernel.flatten(0, 2).permute(0, 3, 1, 2)

    def pull_back(self, grad: Tensor) -> Tensor:
        padded = nn.functional.pad(_images(grad, self.made), (0, 1, 0, 1))
        pairs = nn.functional.conv2d(padded, self._kernel).permute(0, 2, 3, 1)
        flat: Tensor = pairs.reshape(*pairs.shape[:3], 2, -1).transpose(2, 3).flatten(1)
        return flat


def _images(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Rows as images [B,C,H,W] in channels-last order."""
    channels, height, width = shape
    return x.view(-1, height, width, channels).permute(0, 3, 1, 2)
