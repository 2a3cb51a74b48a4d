"""A faster model with the same logits up to rounding: what adversarial images are made with, never judged with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fairbench.attacks.pool import misclassified
from fairbench.attacks.random import ImageRNG
from fairbench.copies import Folded, HalfPrecision, Rewritten, folded, multiplies_bf16
from fairbench.errors import InvalidInput
from fairbench.kernels import philox_uniform

__all__ = ["craft", "crafting_model", "misclassifies", "remembered_copies", "rewritten"]

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
        x = _tried(like)
        pair = _float32(model, x)
        made: nn.Module = model
        if pair is not None:
            made = (bf16 and _bfloat16(*pair, x)) or pair[1]
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


def rewritten(model: nn.Module, like: Tensor) -> Rewritten | None:
    """Return a float32 copy of a model in eval mode; None where none can be made or its logits are others."""
    pair = _float32(model, _tried(like))
    return None if pair is None else pair[1]


def _float32(model: nn.Module, x: Tensor) -> tuple[Folded, Rewritten] | None:
    try:
        network = folded(model)
        fast = Rewritten(network, x)
        with torch.no_grad():
            close = torch.allclose(fast(x), model(x), rtol=_TOLERANCE, atol=_TOLERANCE)
    except Exception:
        return None
    return (network, fast) if close else None


def _bfloat16(network: Folded, fast: Rewritten, x: Tensor) -> HalfPrecision | None:
    """Where the processor multiplies such numbers and the network is large enough to gain by it."""
    if not multiplies_bf16(x.device) or _flops(network.traced, x[:1]) < _LARGE:
        return None
    try:
        half = HalfPrecision(network.traced, fast)
        with torch.no_grad():
            wanted, got = fast(x), half(x)
    except Exception:
        return None
    error = (got - wanted).abs().amax(1) / wanted.abs().amax(1)
    return half if error.max() < _HALF_TOLERANCE else None


def _tried(like: Tensor) -> Tensor:
    """Random images for which a copy has to be right."""
    index = torch.arange(_TRIED, device=like.device)
    return philox_uniform(0, index, like[0].numel()).view(-1, *like.shape[1:])


def _flops(network: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        network(x)
    return int(counter.get_total_flops())
