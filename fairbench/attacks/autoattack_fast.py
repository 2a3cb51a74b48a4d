"""AutoAttack's standard ensemble on our own engine: the same four attacks and budgets, every image on its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fairbench.attacks.apgd import Targets, apgd_ce, apgd_t
from fairbench.attacks.crafting import craft, crafting_model, misclassifies
from fairbench.attacks.fab import fab_t
from fairbench.attacks.pgd import Norm, Steps
from fairbench.attacks.random import ImageRNG
from fairbench.attacks.square import Queries, square
from fairbench.attacks.ticking import part
from fairbench.copies import HalfPrecision
from fairbench.registry import register_attack

__all__ = ["autoattack_fast"]

_PARTS = (0.0, 0.03, 0.25, 0.55, 1.0)  # shares of the time after which a component begins, for the display alone


@register_attack("autoattack-fast", summary="AutoAttack standard on our own engine; the same for every batch and order")
def autoattack_fast(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    steps: Steps = 100,
    targets: Targets = 9,
    queries: Queries = 5000,
    rng: ImageRNG,
    note: Callable[[str, Tensor], None] = lambda component, broken: None,
) -> Tensor:
    """Return adversarial images like x float32 [B,C,H,W]; those that nothing broke are returned as they are.

    APGD on the cross-entropy, APGD-T and FAB-T (`steps` for each of min(targets, C - 1) classes) and Square (`queries`)
    in this order, each on the images that those before it left. Images are made with a faster copy of the model and
    leave only once the model itself misclassifies them; where only the copy is misled, the model is attacked. For both
    APGDs the copy computes in bfloat16 where that pays; FAB-T, which stays close to the boundary, and Square, which
    compares what differs little, need float32. `note` is told which component broke which images, int64 [K], "clean"
    first. Raises InvalidInput for logits that are not finite. Source: Croce and Hein, "Reliable evaluation of
    adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020.
    """
    result, alive = x.clone(), torch.arange(len(x), device=x.device)
    broken = misclassifies(model, x, y)
    note("clean", alive[broken])
    alive = alive[~broken]
    if eps == 0:
        return result
    fast = crafting_model(model, x, bf16=True)
    exact = fast.exact if isinstance(fast, HalfPrecision) else fast
    ball: dict[str, Any] = {"eps": eps, "norm": norm}
    attacks: dict[str, tuple[nn.Module, Callable[..., Tensor]]] = {
        "apgd-ce": (fast, partial(apgd_ce, **ball, steps=steps)),
        "apgd-t": (fast, partial(apgd_t, **ball, steps=steps, targets=targets)),
        "fab-t": (exact, partial(fab_t, **ball, steps=steps, targets=targets)),
        "square": (exact, partial(square, **ball, queries=queries)),
    }
    for number, (name, (copy, attack)) in enumerate(attacks.items()):
        if not len(alive):
            break
        with part(*_PARTS[number : number + 2]):
            found, broken = craft(attack, copy, model, x[alive], y[alive], replace(rng, index=rng.index[alive]))
        note(name, alive[broken])
        result[alive[broken]] = found[broken]
        alive = alive[~broken]
    return result
