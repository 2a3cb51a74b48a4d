"""Auto-PGD: projected gradient ascent with momentum that finds its own step size, in Linf, L2 and L1.

Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", ICML 2020, algorithm 1. In L1 the steps are those of `fairbench.attacks.apgd_l1`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from fairbench.attacks.apgd_l1 import ascend_sparsely
from fairbench.attacks.gradient import logits_and_gradient
from fairbench.attacks.losses import Loss, ce, dlr, targeted_dlr
from fairbench.attacks.pgd import Steps
from fairbench.attacks.pool import Pool, misclassified
from fairbench.attacks.projections import AnyNorm, columns, distance, nearest_in_ball, unit
from fairbench.attacks.random import ImageRNG
from fairbench.attacks.ticking import part, tick
from fairbench.kernels import apgd_sign_step, projected_sign_step
from fairbench.registration import register_attack

__all__ = [
    "Targets",
    "apgd_ce",
    "apgd_dlr",
    "apgd_t",
    "ascend",
    "checkpoints",
    "likeliest_wrong",
    "random_start",
    "ranked_targets",
]

Targets = Annotated[int, Field(ge=1)]

_MOMENTUM = 0.75
_RISING = 0.75
# Broken images leave the batch at checkpoints, and more often at the start, because most images that break do so early.
_RELEASE = frozenset({1, 3, 6, 10, 15})


@register_attack("apgd-ce", summary="APGD on the cross-entropy, K steps as in apgd-ce-50, 100 by default", copies=True)
def apgd_ce(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: AnyNorm = "Linf", steps: Steps = 100, rng: ImageRNG
) -> Tensor:
    """Return images like x float32 [B,C,H,W]: the first misclassified iterate, or else the point of highest loss."""
    return _untargeted(model, x, y, ce, eps, norm, steps, rng)


@register_attack("apgd-dlr", summary="APGD on the difference of logits ratio, 100 steps by default", copies=True)
def apgd_dlr(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: AnyNorm = "Linf", steps: Steps = 100, rng: ImageRNG
) -> Tensor:
    """As `apgd_ce` on the DLR loss; below three classes the loss is the margin."""
    return _untargeted(model, x, y, dlr, eps, norm, steps, rng)


@register_attack(
    "apgd-t", summary="APGD on the targeted DLR loss for the 9 likeliest wrong classes, 100 steps each", copies=True
)
def apgd_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: AnyNorm = "Linf",
    steps: Steps = 100,
    targets: Targets = 9,
    rng: ImageRNG,
) -> Tensor:
    """As `apgd_ce`, with one run towards each of the min(targets, C - 1) wrong classes of highest logit.

    A broken image skips the remaining targets; for an unbroken one the last target's point of highest loss is returned.
    Below four classes the loss is the targeted margin.
    """
    ranked = ranked_targets(model, x, y, targets)
    pool = Pool(x)
    for number in range(ranked.shape[1]):
        left = pool.alive
        if not len(left):
            break
        aim = torch.stack((y[left], ranked[left, number]), 1)
        start = random_start(x[left], eps, norm, replace(rng, index=rng.index[left]), restart=number + 1)
        with part(number / ranked.shape[1], (number + 1) / ranked.shape[1]):
            found, broken = ascend(model, x[left], aim, targeted_dlr, eps=eps, norm=norm, steps=steps, start=start)
        pool.result[left] = found
        pool.look(found, broken)
        pool.release(())
    return pool.result


class _Climb(NamedTuple):
    """The state of an ascent, one row an image: iterates, best point, and what decides the step size."""

    x: Tensor
    aim: Tensor
    here: Tensor
    before: Tensor
    grad: Tensor
    value: Tensor
    best: Tensor
    best_grad: Tensor
    best_value: Tensor
    step: Tensor
    rising: Tensor
    halved: Tensor
    noted: Tensor


def ascend(
    model: nn.Module, x: Tensor, aim: Tensor, loss: Loss, *, eps: float, norm: AnyNorm, steps: int, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Ascend `loss(logits, aim)` from `start`; return images like x [B,...], and bool [B]: which of them are broken.

    aim is int64 [B], the labels, or [B,K] with the labels first. A broken image leaves the batch with its first
    misclassified iterate, which may be `start`. For the other images the point of highest loss is returned.
    """
    if norm == "L1":
        return ascend_sparsely(model, x, aim, loss, eps=eps, steps=steps, start=start)
    pool = Pool(x)
    logits, grad = logits_and_gradient(model, start, loss, aim)
    pool.look(start, misclassified(logits, aim))
    value = loss(logits, aim)
    rows: tuple[Tensor, ...] = _Climb(
        x=x,
        aim=aim,
        here=start,
        before=start,
        grad=grad,
        value=value,
        best=start,
        best_grad=grad,
        best_value=value,
        step=torch.full_like(value, 2.0 * eps),
        rising=torch.zeros_like(value),
        halved=torch.zeros_like(value, dtype=torch.bool),
        noted=value,
    )
    ends = dict(checkpoints(steps))
    for k in range(1, steps + 1):
        tick((k - 1) / steps)
        if k - 1 in ends or k - 1 in _RELEASE:
            rows = pool.release(rows)
            if not len(pool):
                break
        now = _climb(model, _Climb(*rows), loss, eps, norm, momentum=k > 1, gradient=k < steps, pool=pool)
        rows = _reconsider(now, ends[k]) if k in ends else now
    return pool.finish(_Climb(*rows).best)


def _climb(
    model: nn.Module, s: _Climb, loss: Loss, eps: float, norm: AnyNorm, *, momentum: bool, gradient: bool, pool: Pool
) -> _Climb:
    """Take one step, and compute the gradient for the next one unless this is the last."""
    here = _move(s, eps, norm, momentum)
    if gradient:
        logits, grad = logits_and_gradient(model, here, loss, s.aim)
    else:
        with torch.no_grad():
            logits, grad = model(here), s.grad
    pool.look(here, misclassified(logits, s.aim))
    value = loss(logits, s.aim)
    better = columns(value > s.best_value, here)
    return s._replace(
        here=here,
        before=s.here,
        grad=grad,
        value=value,
        best=torch.where(better, here, s.best),
        best_grad=torch.where(better, grad, s.best_grad),
        best_value=torch.maximum(value, s.best_value),
        rising=s.rising + (value > s.value),
    )


def _move(s: _Climb, eps: float, norm: AnyNorm, momentum: bool) -> Tensor:
    if norm == "Linf" and momentum:
        return apgd_sign_step(s.here, s.before, s.grad, s.x, eps, s.step, momentum=_MOMENTUM)
    if norm == "Linf":
        return projected_sign_step(s.here, s.grad, s.x, eps, s.step)
    target = nearest_in_ball(s.here + columns(s.step, s.x) * unit(s.grad), s.x, eps, norm)
    if not momentum:
        return target
    mixed = _MOMENTUM * (target - s.here) + (1.0 - _MOMENTUM) * (s.here - s.before)
    return nearest_in_ball(s.here + mixed, s.x, eps, norm)


def _reconsider(s: _Climb, since: int) -> _Climb:
    """Halve the step and return to the best point if too few steps raised the loss, or the best loss is unchanged."""
    stuck = (s.rising < _RISING * since) | (~s.halved & (s.best_value <= s.noted))
    there = columns(stuck, s.x)
    return s._replace(
        here=torch.where(there, s.best, s.here),
        grad=torch.where(there, s.best_grad, s.grad),
        value=torch.where(stuck, s.best_value, s.value),
        step=torch.where(stuck, s.step / 2.0, s.step),
        rising=torch.zeros_like(s.rising),
        halved=stuck,
        noted=s.best_value,
    )


def checkpoints(steps: int) -> Iterator[tuple[int, int]]:
    """Yield each step at which the step size is reconsidered, and the number of steps since the checkpoint before.

    w_j = ceil(p_j steps) with p_1 = 0.22 and p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06).
    """
    # in hundredths, so that no rounding moves a checkpoint
    last, share, gap = 0, 22, 22
    while (end := math.ceil(share * steps / 100)) <= steps and share <= 100:
        if end > last:
            yield end, end - last
        last, gap = end, max(gap - 3, 6)
        share += gap


def ranked_targets(model: nn.Module, x: Tensor, y: Tensor, targets: int = 9) -> Tensor:
    """Return int64 [B, min(targets, C - 1)]: the wrong classes by falling logit of the clean image."""
    with torch.no_grad():
        return likeliest_wrong(model(x), y, targets)


def likeliest_wrong(logits: Tensor, y: Tensor, targets: int = 9) -> Tensor:
    """Return int64 [B, min(targets, C - 1)]: the wrong classes by falling logit, [B,C]."""
    wrong: Tensor = logits.scatter(1, y.unsqueeze(1), -torch.inf)
    return wrong.argsort(dim=1, descending=True, stable=True)[:, : min(targets, logits.shape[1] - 1)]


def random_start(x: Tensor, eps: float, norm: AnyNorm, rng: ImageRNG, *, restart: int) -> Tensor:
    """Return a random point on the surface of the ball around x, projected on [0,1] like every iterate."""
    noise = 2.0 * rng.uniform(x.shape, restart) - 1.0 if norm == "Linf" else rng.normal(x.shape, restart)
    scale = eps / distance(noise, norm)
    return nearest_in_ball(x + columns(scale, x) * noise, x, eps, norm)


def _untargeted(
    model: nn.Module, x: Tensor, y: Tensor, loss: Loss, eps: float, norm: AnyNorm, steps: int, rng: ImageRNG
) -> Tensor:
    start = random_start(x, eps, norm, rng, restart=0)
    return ascend(model, x, y, loss, eps=eps, norm=norm, steps=steps, start=start)[0]
