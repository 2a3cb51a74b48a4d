"""Crafting adversarial images with a faster copy of the model, which never decides a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fairbench.attacks.copying import chain_of, exact_copy, graphed_copy, half_copy, has_graphs, tried
from fairbench.attacks.pool import misclassified
from fairbench.attacks.random import ImageRNG
from fairbench.copies import (
    Engine,
    Graphed,
    Rewritten,
    default_engine,
    float32_copy,
    name_of,
)
from fairbench.cost import count_passes
from fairbench.errors import InvalidInput

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


@dataclass(frozen=True)
class _Remembered:
    """The engine of an evaluation, and its copies so far."""

    engine: Engine | None
    copies: dict[Any, nn.Module] = field(default_factory=dict)

    def free(self) -> None:
        """Free the recorded passes of the copies."""
        for copy in self.copies.values():
            for each in chain_of(copy):
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
        x = tried(like)
        pair = exact_copy(model, x, native=engine != "torch")
        copy: nn.Module = model
        if pair is not None:
            copy = (bf16 and pair[1].chain is None and half_copy(*pair, x)) or pair[1]
            copy = graphed_copy(copy, pair[1], x) if has_graphs(like.device) else copy
        for each in chain_of(copy):
            each.listener = count_passes
        if remembered is None:
            return copy
        remembered.copies[*key, bf16] = copy
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
    pair = exact_copy(model, tried(like), native=(engine or default_engine(like.device)) == "c")
    return None if pair is None else pair[1]


def _chosen(model: nn.Module, like: Tensor, fast: bool | None, bf16: bool) -> nn.Module:
    remembered = _remembered.get()
    if fast is None:
        fast = remembered is not None and remembered.engine != "plain"
    return crafting_model(model, like, bf16=bf16) if fast else model
