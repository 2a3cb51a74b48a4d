"""A faster model with the same logits up to rounding: what adversarial images are made with, never judged with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from fairbench.attacks.random import ImageRNG
from fairbench.kernels import philox_uniform

__all__ = ["Band", "DenseConv", "HalfPrecision", "craft", "crafting_model", "remembered_copies"]

# On a CPU a few small matrix products beat a convolution of several times fewer multiply-adds.
_DENSE = 1 << 17
_BANDS = 4
_TOLERANCE = 1e-3
_TRIED = 16

# Operations an image from which on a copy may compute in bfloat16, and how far its logits may then be from the model's,
# as a share of their norm.
_LARGE = 2e8
_HALF_TOLERANCE = 0.05

_copies: ContextVar[dict[Any, nn.Module] | None] = ContextVar("copies", default=None)


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


class HalfPrecision(nn.Module):
    """A copy of a traced network that computes in bfloat16 after its first convolution, from images to logits.

    The images themselves are not rounded: near 1 a bfloat16 number moves by half a grey level.
    """

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__()
        self.network = deepcopy(traced)
        modules, kept = dict(self.network.named_modules()), set[str]()
        for node in self.network.graph.nodes:
            kept.add(str(node.target))
            if node.op == "call_module" and isinstance(modules[node.target], nn.Conv2d | DenseConv):
                break
        else:
            raise ValueError("a network without a convolution")
        with self.network.graph.inserting_after(node):
            rounded = self.network.graph.call_method("to", (node, torch.bfloat16))
        node.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)
        self.network.recompile()
        for name, tensor in chain(self.network.named_parameters(), self.network.named_buffers()):
            if tensor.is_floating_point() and not kept & {name, name.rpartition(".")[0]}:
                tensor.data = tensor.data.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [B,C,H,W] to [B,classes]; the gradient for x is float32 too."""
        logits: Tensor = self.network(x).float()
        return logits


@contextmanager
def remembered_copies() -> Iterator[None]:
    """Make one crafting copy of a model for all batches in the block, during which nothing may change the model."""
    token = _copies.set({})
    try:
        yield
    finally:
        _copies.reset(token)


def crafting_model(model: nn.Module, like: Tensor, *, bf16: bool = False) -> nn.Module:
    """Return a copy of a model in eval mode, BatchNorm folded and small convolutions written out, or the model itself.

    The copy is for images like those of `like` float32 [B,C,H,W]. With `bf16` it may compute in bfloat16, where the
    processor multiplies such numbers and the network is large enough to gain by it. The model itself is returned where
    it cannot be traced, or where the copy's logits of random images differ by more than rounding.
    """
    copies = _copies.get()
    key = (model, like.shape[1:], like.device, bf16)
    if copies is None or key not in copies:
        made = _copy(model, like, bf16)
        if copies is None:
            return made
        copies[key] = made
    return copies[key]


def craft(
    attack: Callable[..., Tensor], copy: nn.Module, model: nn.Module, x: Tensor, y: Tensor, rng: ImageRNG
) -> Tensor:
    """Attack a copy of a model, and the model itself with the images that break the copy alone.

    `attack` is called with a network, x float32 [B,C,H,W], y int64 [B] and `rng`; returns images like x.
    """
    found = attack(copy, x, y, rng=rng)
    if copy is model:
        return found
    with torch.no_grad():
        left = (model(found).argmax(1) == y).nonzero().squeeze(1)
        again = left[copy(found[left]).argmax(1) != y[left]]
    if len(again):
        found[again] = attack(model, x[again], y[again], rng=replace(rng, index=rng.index[again]))
    return found


def _copy(model: nn.Module, like: Tensor, bf16: bool) -> nn.Module:
    x = philox_uniform(0, torch.arange(_TRIED, device=like.device), like[0].numel()).view(-1, *like.shape[1:])
    try:
        traced = fx.symbolic_trace(deepcopy(model).eval())
        _fold(traced)
        if x.device.type == "cpu":
            _write_out(traced, x[:1])
        traced.delete_all_unused_submodules()
        traced.recompile()
        fast = traced.requires_grad_(False).to(memory_format=torch.channels_last)
        with torch.no_grad():
            wanted, got = model(x), fast(x)
            if not torch.allclose(got, wanted, rtol=_TOLERANCE, atol=_TOLERANCE):
                return model
            if bf16 and _multiplies_bf16(x.device) and _flops(fast, x[:1]) >= _LARGE:
                half = HalfPrecision(fast)
                if float((half(x) - wanted).norm() / wanted.norm()) < _HALF_TOLERANCE:
                    return half
    except Exception:
        return model
    return fast


def _multiplies_bf16(device: torch.device) -> bool:
    """Whether products of bfloat16 numbers are faster than those of float32 on a device."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    return any(feature is not None and feature() for feature in features)


def _flops(network: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        network(x)
    return int(counter.get_total_flops())


def _fold(traced: fx.GraphModule) -> None:
    """Fold each BatchNorm into the convolution before it, where nothing else reads that one's output."""
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        norm = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d) or not norm.track_running_stats:
            continue
        before = node.args[0]
        conv = modules.get(before.target) if before.op == "call_module" else None
        if not isinstance(conv, nn.Conv2d) or len(before.users) > 1 or _uses(traced, before) > 1:
            continue
        traced.set_submodule(before.target, fuse_conv_bn_eval(conv, norm))
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    traced.graph.lint()


def _write_out(traced: fx.GraphModule, x: Tensor) -> None:
    """Replace convolutions whose matrix is small."""
    ShapeProp(traced).propagate(x)
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        conv = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(conv, nn.Conv2d) or _uses(traced, node) > 1 or conv.padding_mode != "zeros":
            continue
        taken, made = node.args[0].meta["tensor_meta"].shape[1:], node.meta["tensor_meta"].shape[1:]
        if taken.numel() * made.numel() <= _DENSE:
            after = next(iter(node.users))
            rectified = len(node.users) == 1 and isinstance(modules.get(after.target), nn.ReLU)
            traced.set_submodule(node.target, DenseConv(conv, tuple(taken), rectified=rectified))
            if rectified:
                after.replace_all_uses_with(node)
                traced.graph.erase_node(after)


def _uses(traced: fx.GraphModule, node: fx.Node) -> int:
    return sum(other.op == "call_module" and other.target == node.target for other in traced.graph.nodes)
