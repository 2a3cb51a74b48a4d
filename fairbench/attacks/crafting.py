"""A faster model with the same logits up to rounding: what adversarial images are made with, never judged with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fairbench.attacks.pool import misclassified
from fairbench.attacks.random import ImageRNG
from fairbench.copies import (
    Counted,
    Engine,
    Folded,
    HalfPrecision,
    Rewritten,
    default_engine,
    folded,
    multiplies_bf16,
    name_of,
)
from fairbench.cost import FlopMeter, count_passes
from fairbench.errors import InvalidInput
from fairbench.kernels import philox_uniform

__all__ = [
    "craft",
    "craft_by_rule",
    "crafting_engine",
    "crafting_model",
    "misclassifies",
    "remembered_copies",
    "rewritten",
]

Crafted = Callable[..., Tensor]

# The largest error of a copy's logits, as a share of how far logits of one image lie from their mean, and the number of
# random images that it is measured on.
_TOLERANCE = 1e-3
_TRIED = 16

# Operations an image from which on a copy may compute in bfloat16, and how far a logit may then be off, as a share of
# its image's largest one.
_LARGE = 2e8
_HALF_TOLERANCE = 0.05


@dataclass(frozen=True)
class _Remembered:
    """The engine of an evaluation, and the copies made so far."""

    engine: Engine | None
    copies: dict[Any, nn.Module] = field(default_factory=dict)


_remembered: ContextVar[_Remembered | None] = ContextVar("remembered", default=None)


@contextmanager
def remembered_copies(engine: Engine | None = None) -> Iterator[None]:
    """Craft with one engine in the block, and make one copy of a model for all its batches.

    Nothing may change the model inside the block. `engine` None is the default of the device. A block inside another
    one with the same engine shares its copies.
    """
    outer = _remembered.get()
    shared = outer if outer is not None and engine in (None, outer.engine) else _Remembered(engine)
    token = _remembered.set(shared)
    try:
        yield
    finally:
        _remembered.reset(token)


def crafting_engine(model: nn.Module, like: Tensor) -> str:
    """Name what attacks by the rule are crafted with here: `c`, `torch`, `bfloat16` or `plain`, the model itself."""
    return name_of(_chosen(model, like, fast=None, bf16=True))


def crafting_model(model: nn.Module, like: Tensor, *, bf16: bool = False) -> nn.Module:
    """Return a copy of a model in eval mode with BatchNorm folded, or the model itself.

    The copy is for images like those of `like` float32 [B,C,H,W]. It runs in C where the engine is `c`, on a CPU, and
    the network is a small one that `fairbench.copies.chain` can hold. With `bf16`, any other copy computes in bfloat16
    where the processor multiplies such numbers, no convolution is grouped, and the network is large enough to gain by
    it. The model itself is returned where it cannot be traced, or where the copy's logits of random images differ by
    more than rounding.
    """
    remembered = _remembered.get()
    key = (model, like.shape[1:], like.device)
    if remembered is not None and (*key, bf16) not in remembered.copies and (*key, True) in remembered.copies:
        half = remembered.copies[*key, True]
        remembered.copies[*key, bf16] = half.exact if isinstance(half, HalfPrecision) else half
    if remembered is None or (*key, bf16) not in remembered.copies:
        engine = (remembered and remembered.engine) or default_engine(like.device)
        x = _tried(like)
        pair = _float32(model, x, native=engine != "torch")
        made: nn.Module = model
        if pair is not None:
            made = (bf16 and pair[1].chain is None and _bfloat16(*pair, x)) or pair[1]
        for each in (made, getattr(made, "exact", None)):
            if isinstance(each, Counted):
                each.listener = count_passes
        if remembered is None:
            return made
        remembered.copies[*key, bf16] = made
    return remembered.copies[*key, bf16]


def craft_by_rule(
    attack: Crafted,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    rng: ImageRNG,
    *,
    fast: bool | None = None,
    bf16: bool = True,
) -> Tensor:
    """Return what an attack makes of x float32 [B,C,H,W], y int64 [B], with a copy of the model where the rule has one.

    The rule holds inside `remembered_copies`, that is in every evaluation, unless its engine is `plain`. `fast` True
    uses a copy in any case, False never. Attacks that compare logits that differ little need a copy without `bf16`.
    """
    copy = _chosen(model, x, fast, bf16)
    return attack(model, x, y, rng=rng) if copy is model else craft(attack, copy, model, x, y, rng)[0]


def craft(
    attack: Crafted, copy: nn.Module, model: nn.Module, x: Tensor, y: Tensor, rng: ImageRNG
) -> tuple[Tensor, Tensor]:
    """Attack a copy of a model, and the model itself with the images that break the copy alone.

    `attack` is called with a network, x float32 [B,C,H,W], y int64 [B] and `rng`; returns images like x, and where the
    model misclassifies them, bool [B]. Images that are not finite are returned as they are, and count as x does. Raises
    InvalidInput for logits that are not finite.
    """
    found = attack(copy, x, y, rng=rng)
    finite = found.isfinite().flatten(1).all(1)
    broken = misclassifies(model, torch.where(finite.view(-1, *[1] * (x.dim() - 1)), found, x), y)
    left = (finite & ~broken).nonzero().squeeze(1)
    if copy is not model and len(left):  # not every network takes a batch without images
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


def rewritten(model: nn.Module, like: Tensor, engine: Engine | None = None) -> Rewritten | None:
    """Return a float32 copy of a model in eval mode; None where none can be made or its logits are others.

    `engine` None is the default of the device.
    """
    pair = _float32(model, _tried(like), native=(engine or default_engine(like.device)) == "c")
    return None if pair is None else pair[1]


def _chosen(model: nn.Module, like: Tensor, fast: bool | None, bf16: bool) -> nn.Module:
    remembered = _remembered.get()
    if fast is None:
        fast = remembered is not None and remembered.engine != "plain"
    return crafting_model(model, like, bf16=bf16) if fast else model


def _float32(model: nn.Module, x: Tensor, *, native: bool) -> tuple[Folded, Rewritten] | None:
    try:
        network = folded(model)
        with torch.no_grad():
            wanted = model(x)
            spread = (wanted - wanted.mean(1, keepdim=True)).abs().max()
            for in_c in (True, False) if native else (False,):
                fast = Rewritten(network, x, native=in_c)
                if bool((fast(x) - wanted).abs().max() <= _TOLERANCE * spread):
                    return network, fast
    except Exception:
        return None
    return None


def _bfloat16(network: Folded, fast: Rewritten, x: Tensor) -> HalfPrecision | None:
    """Where the processor multiplies such numbers and the network gains by it."""
    convolutions = [part for part in network.traced.modules() if isinstance(part, nn.Conv2d)]
    grouped = any(part.groups > 1 for part in convolutions)
    if grouped or not multiplies_bf16(x.device) or _flops(network.traced, x[:1]) < _LARGE:
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
    with FlopMeter() as meter, torch.no_grad():
        network(x)
    return int(meter.total)
