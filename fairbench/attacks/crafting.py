"""Crafting adversarial images with a faster copy of the model, which never decides a verdict."""

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
    Graphed,
    HalfPrecision,
    Rewritten,
    default_engine,
    float32_copy,
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

# The fewest floating-point operations an image for which a copy may compute in bfloat16, and the largest error of its
# logits, as a share of the image's largest logit.
_LARGE = 2e8
_HALF_TOLERANCE = 0.05


@dataclass(frozen=True)
class _Remembered:
    """The engine of an evaluation, and its copies so far."""

    engine: Engine | None
    copies: dict[Any, nn.Module] = field(default_factory=dict)

    def free(self) -> None:
        """Free the recorded passes of the copies."""
        for copy in self.copies.values():
            for each in _chain(copy):
                if isinstance(each, Graphed):
                    each.forget()


_remembered: ContextVar[_Remembered | None] = ContextVar("remembered", default=None)


@contextmanager
def remembered_copies(engine: Engine | None = None) -> Iterator[None]:
    """Use one engine for all attacks in the block, and one copy of a model for all its batches.

    The model must not change inside the block. `engine` None is the device's default. A block nested in another with
    the same engine shares its copies.
    """
    outer = _remembered.get()
    shared = outer if outer is not None and engine in (None, outer.engine) else _Remembered(engine)
    token = _remembered.set(shared)
    try:
        yield
    finally:
        _remembered.reset(token)
        if shared is not outer:
            shared.free()


def crafting_engine(model: nn.Module, like: Tensor, *, fast: bool | None = None) -> str:
    """Name the engine that the rule selects here: `c`, `torch`, `tf32` or `bfloat16`, or `plain` for the model itself.

    `fast` as for `craft_by_rule`.
    """
    return name_of(_chosen(model, like, fast=fast, bf16=True))


def crafting_model(model: nn.Module, like: Tensor, *, bf16: bool = False) -> nn.Module:
    """Return a copy of a model in eval mode with BatchNorm folded, or the model itself.

    The copy takes images shaped like `like` float32 [B,C,H,W]. On a CPU with the engine `c`, a small network that
    `fairbench.copies.chain` supports runs in C. With `bf16`, any other copy computes in bfloat16 if the processor
    multiplies bfloat16, no convolution is grouped and the network is large enough. On CUDA float32 copies multiply in
    TF32, and all copies run as CUDA graphs. The model itself is returned if it cannot be traced, or if the copy's
    logits of random images differ by more than rounding.
    """
    remembered = _remembered.get()
    key = (model, like.shape[1:], like.device)
    if remembered is not None and (*key, bf16) not in remembered.copies and (*key, True) in remembered.copies:
        remembered.copies[*key, bf16] = float32_copy(remembered.copies[*key, True])
    if remembered is None or (*key, bf16) not in remembered.copies:
        engine = (remembered and remembered.engine) or default_engine(like.device)
        x = _tried(like)
        pair = _float32(model, x, native=engine != "torch")
        made: nn.Module = model
        if pair is not None:
            made = (bf16 and pair[1].chain is None and _bfloat16(*pair, x)) or pair[1]
            made = _graphed(made, pair[1], x) if _has_graphs(like.device) else made
        for each in _chain(made):
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
    """Attack x float32 [B,C,H,W] with labels y int64 [B], crafting with a copy of the model if the rule selects one.

    The rule applies inside `remembered_copies`, that is in every evaluation, unless the engine is `plain`. `fast` True
    always uses a copy, `fast` False never. Attacks that compare nearly equal logits need `bf16` False.
    """
    copy = _chosen(model, x, fast, bf16)
    return attack(model, x, y, rng=rng) if copy is model else craft(attack, copy, model, x, y, rng)[0]


def craft(
    attack: Crafted, copy: nn.Module, model: nn.Module, x: Tensor, y: Tensor, rng: ImageRNG
) -> tuple[Tensor, Tensor]:
    """Attack a copy of a model, and then the model itself on the images that break only the copy.

    Between them comes the copy's own more exact copy, if it runs as CUDA graphs.

    `attack` is called with a network, x float32 [B,C,H,W], y int64 [B] and `rng`. Returns images like x, and bool [B]:
    which of them the model misclassifies. Images that are not finite are returned unchanged and counted as x is. Raises
    InvalidInput for logits that are not finite.
    """
    found = attack(copy, x, y, rng=rng)
    finite = found.isfinite().flatten(1).all(1)
    broken = misclassifies(model, torch.where(finite.view(-1, *[1] * (x.dim() - 1)), found, x), y)
    if copy is model:
        return found, broken
    left = (finite & ~broken).nonzero().squeeze(1)
    if len(left):  # not every network takes a batch without images
        with torch.no_grad():
            again = left[misclassified(copy(found[left]), y[left])]
        if len(again):
            exact = copy.exact if isinstance(copy, Graphed) and copy.exact is not None else model
            part = replace(rng, index=rng.index[again])
            found[again], broken[again] = craft(attack, exact, model, x[again], y[again], part)
    return found, broken


def misclassifies(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return bool [B]: whether a model predicts a class other than y int64 [B]; raises InvalidInput for logits not
    finite.
    """
    with torch.no_grad():
        logits: Tensor = model(x)
    if not logits.isfinite().all():
        raise InvalidInput("the model's logits are not finite")
    return misclassified(logits, y)


def rewritten(model: nn.Module, like: Tensor, engine: Engine | None = None) -> Rewritten | None:
    """Return a float32 copy of a model in eval mode, or None if it cannot be traced or the copy's logits differ.

    `engine` None is the device's default.
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
    """Return a bfloat16 copy, or None if the processor or the network does not gain by it."""
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


def _has_graphs(device: torch.device) -> bool:
    return device.type == "cuda"


def _graphed(made: nn.Module, fast: Rewritten, x: Tensor) -> nn.Module:
    """Return a copy whose passes are CUDA graphs, in TF32 if its logits of x are near enough to those of float32."""
    exact = Graphed(fast, tf32=False)
    quick = Graphed(fast, tf32=True, exact=exact)
    with torch.no_grad():
        wanted, got = exact(x), quick(x)
    error = (got - wanted).abs().amax(1) / wanted.abs().amax(1)
    if error.max() >= _HALF_TOLERANCE:
        quick = exact
    return Graphed(made, tf32=True, exact=quick) if isinstance(made, HalfPrecision) else quick


def _chain(copy: nn.Module) -> Iterator[Counted]:
    """Yield a copy and the more exact ones that it names."""
    while isinstance(copy, Counted):
        yield copy
        copy = getattr(copy, "exact", None)  # type: ignore[assignment]


def _tried(like: Tensor) -> Tensor:
    """Return the random images on which a copy is compared with its model."""
    index = torch.arange(_TRIED, device=like.device)
    return philox_uniform(0, index, like[0].numel()).view(-1, *like.shape[1:])


def _flops(network: nn.Module, x: Tensor) -> int:
    with FlopMeter() as meter, torch.no_grad():
        network(x)
    return int(meter.total)
