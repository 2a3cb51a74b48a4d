"""AutoAttack's standard ensemble by fairbench's own attacks: the same four attacks and budgets, with random numbers per
image.
"""

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
from fairbench.attacks.pgd import Steps
from fairbench.attacks.projections import AnyNorm
from fairbench.attacks.random import ImageRNG
from fairbench.attacks.square import Queries, square
from fairbench.attacks.ticking import part
from fairbench.copies import float32_copy
from fairbench.registration import register_attack

__all__ = ["autoattack_fast"]

_PARTS = (0.0, 0.03, 0.25, 0.55, 1.0)  # shares of the time after which a component begins, for the display alone


@register_attack(
    "autoattack-fast",
    summary="AutoAttack standard on our own engine; the same for every batch size",
    copies="always",
)
def autoattack_fast(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: AnyNorm = "Linf",
    steps: Steps = 100,
    targets: Targets = 9,
    queries: Queries = 5000,
    rng: ImageRNG,
    note: Callable[[str, Tensor], None] = lambda component, broken: None,
) -> Tensor:
    """Return adversarial images like x float32 [B,C,H,W]; images that no component broke are returned unchanged.

    APGD on the cross-entropy, APGD-T, FAB-T (`steps` for each of min(targets, C - 1) classes) and Square (`queries`)
    run in this order, each on the images that are still unbroken. Images are crafted with a faster copy of the model.
    An image leaves only when the model itself misclassifies it; an image that misleads only the copy is attacked again
    on the model. For both APGDs the copy may compute in bfloat16. FAB-T, which stays near the decision boundary, and
    Square, which compares nearly equal logits, need float32. In L1 the APGDs start inside the ball and use `targets`
    classes; pyautoattack starts at three times the radius and uses 5. `note` is told which component broke which
    images, int64 [K], "clean" first. Raises InvalidInput for logits that are not finite. Source: Croce and Hein,
    "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020.
    """
    result, alive = x.clone(), torch.arange(len(x), device=x.device)
    broken = misclassifies(model, x, y)
    note("clean", alive[broken])
    alive = alive[~broken]
    if eps == 0:
        return result
    fast = crafting_model(model, x, bf16=True)
    exact = float32_copy(fast)
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
