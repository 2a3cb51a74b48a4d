"""MIM: PGD with an accumulated gradient (momentum)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from fairbench.attacks.gradient import logits_and_gradient
from fairbench.attacks.losses import Loss, LossName, find_loss
from fairbench.attacks.pgd import Iterate, Norm, Steps, StepSize
from fairbench.attacks.pool import Pool
from fairbench.attacks.projections import ascent_step, columns, distance
from fairbench.attacks.random import ImageRNG
from fairbench.registration import register_attack

__all__ = ["mim"]

_TINY = 1e-30


@register_attack("mim", summary="PGD along an accumulated gradient, K steps as in mim-20, no random start", copies=True)
def mim(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    steps: Steps = 20,
    step: StepSize,
    decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0,
    loss: LossName | Loss = "ce",
    rng: ImageRNG,
    iterate: Iterate = "any",
) -> Tensor:
    """Return adversarial images like x float32 [B,C,H,W] in [0,1], at most `eps` from x in `norm`.

    g <- decay * g + grad / ||grad||_1, and a step along g. With iterate="any" an image stops at its first misclassified
    iterate. Source: Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018, algorithm 1.
    """
    move, ascend, target = ascent_step(norm), find_loss(loss), y
    if loss == "kl":
        with torch.no_grad():
            target = model(x).softmax(1)
    pool = Pool(x)
    rows: tuple[Tensor, ...] = (x, x, torch.zeros_like(x), y, target)
    for _ in range(steps):
        origin, here, momentum, labels, aim = rows
        logits, grad = logits_and_gradient(model, here, ascend, aim)
        momentum = decay * momentum + grad / columns(distance(grad, "L1").clamp(min=_TINY), grad)
        ahead = move(here, momentum, origin, eps, step)
        if iterate == "any":
            pool.look(here, logits.argmax(1) != labels)
        rows = pool.release((origin, ahead, momentum, labels, aim))
        if not len(pool):
            break
    return pool.finish(rows[1])[0]
