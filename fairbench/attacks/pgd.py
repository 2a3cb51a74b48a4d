"""Projected gradient ascent on the input: the attacks `pgd` and `cw`, and the inner maximisation of training.

Only the gradient with respect to the input is computed. The caller freezes the model, with `frozen`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fairbench.attacks.crafting import craft_by_rule
from fairbench.attacks.gradient import logits_and_gradient
from fairbench.attacks.losses import Loss, LossName, find_loss
from fairbench.attacks.pool import Pool, misclassified, spacing
from fairbench.attacks.projections import ascent_step
from fairbench.attacks.random import ImageRNG
from fairbench.attacks.ticking import tick
from fairbench.kernels import projected_l2_step, projected_sign_step
from fairbench.registration import register_attack

__all__ = ["Iterate", "Norm", "StepSize", "Steps", "climb", "cw", "inner_maximisation", "pgd", "uniform_start"]

Norm = Literal["Linf", "L2"]
Iterate = Literal["any", "last"]
Steps = Annotated[int, Field(ge=1)]
StepSize = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@register_attack(
    "pgd", summary="projected gradient ascent, K steps as in pgd-20; loss=ce, cw, kl, dlr or your own", copies=True
)
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    steps: Steps = 20,
    step: StepSize,
    loss: LossName | Loss = "ce",
    rng: ImageRNG,
    iterate: Iterate = "any",
    random_start: bool = True,
    fast: bool | None = None,
) -> Tensor:
    """Return adversarial images like x, float32 [B,C,H,W] in [0,1], at most `eps` from x in `norm`.

    With iterate="any" an image leaves the batch at its first misclassified iterate, the start included, and that
    iterate is returned; an image that never breaks returns its last iterate. With iterate="last" every image returns
    its last iterate. A `loss` may be a function from logits [B,C] and y to [B]. With `fast`, images are crafted with a
    faster copy of the model, as evaluations do by default, and again with the model itself where they mislead only the
    copy. Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018.
    """
    if fast:
        settings: dict[str, Any] = {"eps": eps, "norm": norm, "steps": steps, "step": step, "loss": loss}
        attack = partial(pgd, **settings, iterate=iterate, random_start=random_start)
        return craft_by_rule(attack, model, x, y, rng, fast=True)
    start = uniform_start(x.detach(), eps, norm, rng) if random_start else x.detach().clone()
    return climb(model, x, y, start, eps=eps, norm=norm, steps=steps, step=step, loss=loss, iterate=iterate)


def climb(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "Linf",
    steps: int,
    step: float | Tensor,
    loss: LossName | Loss = "ce",
    iterate: Iterate = "any",
) -> Tensor:
    """Run `pgd` from `start`, images like x inside the ball around x.

    `eps` and `step` are numbers, or float32 [B] with one value an image.
    """
    move, ascend, target = ascent_step(norm), find_loss(loss), y
    x, x_adv = x.detach(), start
    if loss == "kl":
        with torch.no_grad():
            target = model(x).softmax(1)
    pool, every = Pool(x), spacing(x.device)
    for number in range(steps):
        tick(number / steps)
        logits, grad = logits_and_gradient(model, x_adv, ascend, target)
        if iterate == "any":
            pool.look(x_adv, misclassified(logits, y))
            if (number + 1) % every == 0:
                each = [value for value in (eps, step) if isinstance(value, Tensor)]
                x, x_adv, grad, y, target, *each = pool.release((x, x_adv, grad, y, target, *each))
                eps, step = (each.pop(0) if isinstance(value, Tensor) else value for value in (eps, step))
            if not len(pool):
                break
        x_adv = move(x_adv, grad, x, eps, step)
    return pool.finish(x_adv)[0]


@register_attack("cw", summary="PGD on the Carlini-Wagner margin, K steps as in cw-30", copies=True)
def cw(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    steps: Steps = 30,
    step: StepSize,
    rng: ImageRNG,
    iterate: Iterate = "any",
    random_start: bool = True,
    fast: bool | None = None,
) -> Tensor:
    """PGD that maximises the Carlini-Wagner margin, max_wrong logit - true logit.

    This is the `CW_inf` of robust-fairness tables (WAT's code: 30 steps of 0.003), not the L2 minimisation of Carlini
    and Wagner's paper. Arguments as for `pgd`.
    """
    return pgd(
        model,
        x,
        y,
        eps=eps,
        norm=norm,
        steps=steps,
        step=step,
        loss="cw",
        rng=rng,
        iterate=iterate,
        random_start=random_start,
        fast=fast,
    )


def inner_maximisation(
    model: nn.Module,
    x: Tensor,
    *,
    loss: Callable[[Tensor], Tensor],
    eps: float | Tensor,
    step: float | Tensor,
    steps: int,
    start: Tensor,
    correct_with: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Take `steps` projected sign steps from `start` that maximise the sum of `loss`: the training attack.

    x and start are float32 [B,C,H,W]; `loss` maps logits [B,C] to [B] or a scalar; `eps` and `step` are floats or
    float32 [B]. Returns x_adv and, with labels `correct_with` int64 [B], int64 [B]: at how many of the K iterates, each
    evaluated before its step, the sample was classified correctly (kappa of Fair-ARD). The batch keeps its shape and
    nothing syncs with the host.
    """
    x, x_adv = x.detach(), start.detach()
    survived = None if correct_with is None else torch.zeros_like(correct_with)
    for number in range(steps):
        logits, grad = logits_and_gradient(model, x_adv, loss)
        if survived is not None:
            survived += logits.argmax(1) == correct_with
        x_adv = projected_sign_step(x_adv, grad, x, eps, step, out=x_adv if number else None)  # the start is not ours
    return x_adv, survived


def uniform_start(x: Tensor, eps: float, norm: Norm, rng: ImageRNG) -> Tensor:
    """Draw a point uniformly from the ball around x, clipped to [0, 1]."""
    if norm == "Linf":
        return (x + eps * (2.0 * rng.uniform(x.shape) - 1.0)).clamp_(0.0, 1.0)
    radius = eps * rng.uniform(x.shape[:1]) ** (1.0 / x[0].numel())
    direction = rng.normal(x.shape)
    return projected_l2_step(x, direction, x, eps, radius)
