"""A faster model with the same logits up to rounding: what adversarial images are made with, never judged with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from fairbench.attacks import winograd
from fairbench.attacks.dense import DenseConv
from fairbench.attacks.half import HalfPrecision, multiplies_bf16
from fairbench.attacks.pool import misclassified
from fairbench.attacks.random import ImageRNG
from fairbench.attacks.winograd import WinogradConv
from fairbench.errors import InvalidInput
from fairbench.kernels import philox_uniform

__all__ = ["craft", "crafting_model", "misclassifies", "remembered_copies"]

# Numbers in the matrix of a convolution up to which it is written out.
_DENSE = 1 << 17
_TOLERANCE = 1e-3
_TRIED = 16

# Operations an image from which on a copy may compute in bfloat16, and how far a logit may then be off, as a share of
# its image's largest one.
_LARGE = 2e8
_HALF_TOLERANCE = 0.05

_copies: ContextVar[dict[Any, nn.Module] | None] = ContextVar("copies", default=None)


@contextmanager
def remembered_copies() -> Iterator[None]:
    """Make one crafting copy of a model for all batches in the block, during which nothing may change the model."""
    token = _copies.set({})
    try:
        yield
    finally:
        _copies.reset(token)


def crafting_model(model: nn.Module, like: Tensor, *, bf16: bool = False) -> nn.Module:
    """Return a copy of a model in eval mode, BatchNorm folded and convolutions by faster means, or the model itself.

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
) -> tuple[Tensor, Tensor]:
    """Attack a copy of a model, and the model itself with the images that break the copy alone.

    `attack` is called with a network, x float32 [B,C,H,W], y int64 [B] and `rng`; returns images like x, and where the
    model misclassifies them, bool [B]. Raises InvalidInput for logits that are not finite.
    """
    found = attack(copy, x, y, rng=rng)
    broken = misclassifies(model, found, y)
    if copy is not model:
        left = (~broken).nonzero().squeeze(1)
        with torch.no_grad():
            again = left[misclassified(copy(found[left]), y[left])]
        if len(again):
            found[again] = attack(model, x[again], y[again], rng=replace(rng, index=rng.index[again]))
            broken[again] = misclassifies(model, found[again], y[again])
    return found, broken


def misclassifies(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Where a model classifies x as another class than y int64 [B]; raises InvalidInput for logits not finite."""
    with torch.no_grad():
        logits: Tensor = model(x)
    if not logits.isfinite().all():
        raise InvalidInput("the model's logits are not finite")
    return misclassified(logits, y)


def _copy(model: nn.Module, like: Tensor, bf16: bool) -> nn.Module:
    x = philox_uniform(0, torch.arange(_TRIED, device=like.device), like[0].numel()).view(-1, *like.shape[1:])
    try:
        traced = fx.symbolic_trace(deepcopy(model).eval())
        _fold(traced)
        fast = traced.requires_grad_(False).to(memory_format=torch.channels_last)
        half = None
        if bf16 and multiplies_bf16(x.device) and _flops(fast, x[:1]) >= _LARGE:
            half = HalfPrecision(fast)
        if x.device.type == "cpu":
            _replace_convolutions(traced, x[:1])
        with torch.no_grad():
            wanted, got = model(x), fast(x)
            if not torch.allclose(got, wanted, rtol=_TOLERANCE, atol=_TOLERANCE):
                return model
            if half is not None:
                error = (half(x) - wanted).abs().amax(1) / wanted.abs().amax(1)
                if error.max() < _HALF_TOLERANCE:
                    return half
    except Exception:
        return model
    return fast


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
    _tidy(traced)


def _replace_convolutions(traced: fx.GraphModule, x: Tensor) -> None:
    """Put faster modules in the place of convolutions, and of the ReLU that alone reads one's output."""
    ShapeProp(traced).propagate(x)
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        conv = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(conv, nn.Conv2d) or _uses(traced, node) > 1 or conv.padding_mode != "zeros":
            continue
        after = next(iter(node.users))
        rectified = len(node.users) == 1 and isinstance(modules.get(after.target), nn.ReLU)
        taken, made = node.args[0].meta["tensor_meta"].shape[1:], node.meta["tensor_meta"].shape[1:]
        if taken.numel() * made.numel() <= _DENSE:
            traced.set_submodule(node.target, DenseConv(conv, tuple(taken), rectified=rectified))
        elif winograd.pays(conv, *taken[1:]):
            traced.set_submodule(node.target, WinogradConv(conv, rectified=rectified))
        else:
            continue
        if rectified:
            after.replace_all_uses_with(node)
            traced.graph.erase_node(after)
    _tidy(traced)


def _tidy(traced: fx.GraphModule) -> None:
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()


def _uses(traced: fx.GraphModule, node: fx.Node) -> int:
    return sum(other.op == "call_module" and other.target == node.target for other in traced.graph.nodes)
