"""FAB-T, the targeted fast adaptive boundary attack: it searches the nearest point of each other class.

Source: Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020,
algorithm 1; the targeted version is from their "Reliable evaluation ..." paper of the same year.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fairbench.attacks.apgd import Targets, likeliest_wrong
from fairbench.attacks.gradient import logits_and_gradient
from fairbench.attacks.pgd import Steps
from fairbench.attacks.pool import Pool, misclassified
from fairbench.attacks.projections import AnyNorm, columns, distance, nearest_on_hyperplane
from fairbench.attacks.random import ImageRNG
from fairbench.attacks.ticking import part, tick
from fairbench.registration import register_attack

__all__ = ["fab_t"]

_OVERSHOOT = 1.05
_BACK = 0.9
_TOWARDS_ORIGINAL = 0.1
_SEARCH = 3
# Steps before which broken images leave the batch. Most break early, and on a GPU each of these steps is a sync.
_RELEASE = (1, 3, 6)
_RELEASE_EVERY = 10
_TINY = 1e-12


class _Walk(NamedTuple):
    """The state of a walk, one row an image: original, current point, and nearest misclassified point or x."""

    x: Tensor
    clean: Tensor  # logits of x, as `best_logits` are of `best`
    aim: Tensor
    here: Tensor
    best: Tensor
    best_logits: Tensor
    best_distance: Tensor


@register_attack(
    "fab-t", summary="the nearest point of each of the 9 likeliest wrong classes, 100 steps each", copies="float32"
)
def fab_t(
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
    """Return the first misclassified point within `eps` of x float32 [B,C,H,W], or x if there is none.

    Starting from x, it walks towards each of the min(targets, C - 1) wrong classes of highest logit. No random numbers
    are drawn.
    """
    with torch.no_grad():
        clean = model(x)
    ranked = likeliest_wrong(clean, y, targets)
    pool = Pool(x)
    for number in range(ranked.shape[1]):
        left = pool.alive
        if not len(left):
            break
        aim = torch.stack((y[left], ranked[left, number]), 1)
        with part(number / ranked.shape[1], (number + 1) / ranked.shape[1]):
            found, broken = _walk(model, x[left], clean[left], aim, eps, norm, steps)
        pool.look(found, broken)
        pool.release(())
    return pool.result


def _walk(
    model: nn.Module, x: Tensor, clean: Tensor, aim: Tensor, eps: float, norm: AnyNorm, steps: int
) -> tuple[Tensor, Tensor]:
    pool = Pool(x)
    rows: tuple[Tensor, ...] = _Walk(
        x=x,
        clean=clean,
        aim=aim,
        here=x,
        best=x,
        best_logits=clean,
        best_distance=torch.full_like(x.flatten(1)[:, 0], torch.inf),
    )
    for k in range(steps + 1):
        tick(k / (steps + 1))
        if k in _RELEASE or k % _RELEASE_EVERY == 0 or k == steps:
            rows = pool.release(rows)
            if not len(pool):
                break
        if k < steps:
            rows = _step(model, _Walk(*rows), eps, norm, pool)
        else:
            _search(model, _Walk(*rows), eps, norm, pool)
    return pool.finish(x[pool.alive])


def _step(model: nn.Module, s: _Walk, eps: float, norm: AnyNorm, pool: Pool) -> _Walk:
    """Step over the linearised boundary, biased to the original; a misclassified point is moved back towards it."""
    logits, grad = logits_and_gradient(model, s.here, _lead, s.aim)
    value = _lead(logits, s.aim)
    at_original = value + (grad * (s.x - s.here)).flatten(1).sum(1)
    both = nearest_on_hyperplane(
        torch.cat((s.here, s.x)), torch.cat((grad, grad)), torch.cat((value, at_original)), norm
    )
    move, move_original = (both - torch.cat((s.here, s.x))).chunk(2)
    near, far = distance(move, norm), distance(move_original, norm)
    alpha = columns((near / (near + far).clamp(min=_TINY)).clamp(max=_TOWARDS_ORIGINAL), s.x)
    here = torch.lerp(s.here + _OVERSHOOT * move, s.x + _OVERSHOOT * move_original, alpha).clamp_(0.0, 1.0)
    with torch.no_grad():
        logits = model(here)
    wrong, away = misclassified(logits, s.aim), distance(here - s.x, norm)
    pool.look(here, wrong & (away <= eps))
    nearer = wrong & (away < s.best_distance)
    return s._replace(
        here=torch.where(columns(wrong, here), torch.lerp(s.x, here, _BACK), here),
        best=torch.where(columns(nearer, here), here, s.best),
        best_logits=torch.where(columns(nearer, logits), logits, s.best_logits),
        best_distance=torch.where(nearer, away, s.best_distance),
    )


def _search(model: nn.Module, s: _Walk, eps: float, norm: AnyNorm, pool: Pool) -> None:
    """Search a nearer point between the best one and the original: where the linear interpolation of the margin is
    zero.
    """
    with torch.no_grad():
        outside, inside = s.best, s.x
        aim = torch.stack((s.aim[:, 0], s.best_logits.scatter(1, s.aim[:, :1], -torch.inf).argmax(1)), 1)
        lead_out, lead_in = _lead(s.best_logits, aim), _lead(s.clean, aim)
        for _ in range(_SEARCH):
            share = (lead_out / (lead_out - lead_in).clamp(min=_TINY)).clamp(0.0, 1.0)
            point = torch.lerp(outside, inside, columns(share, s.x))
            logits = model(point)
            lead, wrong = _lead(logits, aim), misclassified(logits, aim)
            pool.look(point, wrong & (distance(point - s.x, norm) <= eps))
            there = columns(wrong, s.x)
            outside, inside = torch.where(there, point, outside), torch.where(there, inside, point)
            lead_out, lead_in = torch.where(wrong, lead, lead_out), torch.where(wrong, lead_in, lead)


def _lead(logits: Tensor, aim: Tensor) -> Tensor:
    true, target = logits.gather(1, aim).unbind(1)
    return target - true
