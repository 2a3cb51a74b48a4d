"""Auto-PGD in L1: a step changes few pixels, and their number follows the sparsity of the best point.

Source: Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", ICML 2021,
algorithm 1 with one radius; their scheme of three decreasing radii is not used.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fairbench.attacks.gradient import logits_and_gradient
from fairbench.attacks.losses import Loss
from fairbench.attacks.pool import Pool, misclassified
from fairbench.attacks.projections import columns, nearest_in_ball

__all__ = ["ascend_sparsely", "reconsider", "sparse_direction"]

_FIRST_SHARE = 0.2
_PERIOD = 0.04
_FEWER = 1.5
_UNCHANGED = 0.95
_SMALLEST = 0.1
_SAME = 1e-9  # a pixel moved by rounding only counts as unchanged


class _Climb(NamedTuple):
    """The state of an ascent, one row an image: iterate, best point, and how many pixels a step changes by how much."""

    x: Tensor
    aim: Tensor
    here: Tensor
    grad: Tensor
    best: Tensor
    best_grad: Tensor
    best_value: Tensor
    pixels: Tensor
    noted: Tensor
    step: Tensor


def ascend_sparsely(
    model: nn.Module, x: Tensor, aim: Tensor, loss: Loss, *, eps: float, steps: int, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Ascend `loss(logits, aim)` in the L1 ball; arguments and results as for `fairbench.attacks.apgd.ascend`."""
    pool = Pool(x)
    logits, grad = logits_and_gradient(model, start, loss, aim)
    pool.look(start, misclassified(logits, aim))
    value = loss(logits, aim)
    size = float(x[0].numel())
    rows: tuple[Tensor, ...] = _Climb(
        x=x,
        aim=aim,
        here=start,
        grad=grad,
        best=start,
        best_grad=grad,
        best_value=value,
        pixels=torch.full_like(value, _FIRST_SHARE * size),
        noted=torch.full_like(value, size),
        step=torch.full_like(value, eps),
    )
    period = math.ceil(_PERIOD * steps)
    for k in range(1, steps + 1):
        if k % period == 0:
            rows = pool.release(_reconsidered(_Climb(*rows), eps))
            if not len(pool):
                break
        s = _Climb(*rows)
        moved = s.here + columns(s.step, s.x) * sparse_direction(s.grad, s.pixels)
        here = nearest_in_ball(moved, s.x, eps, "L1")
        logits, grad = logits_and_gradient(model, here, loss, s.aim)
        pool.look(here, misclassified(logits, s.aim))
        value = loss(logits, s.aim)
        better = value > s.best_value
        rows = s._replace(
            here=here,
            grad=grad,
            best=torch.where(columns(better, here), here, s.best),
            best_grad=torch.where(columns(better, here), grad, s.best_grad),
            best_value=torch.maximum(value, s.best_value),
        )
    return pool.finish(_Climb(*rows).best)


def sparse_direction(grad: Tensor, pixels: Tensor) -> Tensor:
    """Return the signs of the `pixels` steepest entries of each row, scaled to L1 norm 1, and 0 elsewhere (eq. 8).

    grad is float32 [B,...]; pixels float32 [B], at least 1, is rounded down. Entries with slope 0 get no step.
    """
    flat = grad.flatten(1)
    order = flat.abs().argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(flat.shape[1], device=grad.device).expand_as(order))
    signs = torch.where(rank < pixels.floor()[:, None], flat.sign(), 0.0)
    return (signs / signs.abs().sum(1, keepdim=True).clamp(min=1.0)).view_as(grad)


def reconsider(changed: Tensor, noted: Tensor, step: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the next number of pixels, the next step, and whether to continue from the best point, each [B] (eq. 9 and
    10).

    `changed` is the number of pixels in which the best point differs from the image, `noted` that number at the last
    checkpoint. Where it has hardly decreased the step shrinks; elsewhere the step is eps again, from the best point.
    """
    settled = changed / noted.clamp(min=1.0) >= _UNCHANGED
    shrunk = torch.where(settled, (step / _FEWER).clamp(min=_SMALLEST * eps), torch.full_like(step, eps))
    return (changed / _FEWER).clamp(min=1.0), shrunk, ~settled


def _reconsidered(s: _Climb, eps: float) -> _Climb:
    changed = ((s.best - s.x).abs() > _SAME).flatten(1).sum(1).to(s.step.dtype)
    pixels, step, again = reconsider(changed, s.noted, s.step, eps)
    there = columns(again, s.x)
    return s._replace(
        here=torch.where(there, s.best, s.here),
        grad=torch.where(there, s.best_grad, s.grad),
        pixels=pixels,
        noted=changed,
        step=step,
    )
