"""Projections for a batch of images: on a ball and the box [0,1], and on a hyperplane within the box.

All have a fixed number of operations for a given shape, and nothing syncs with the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from fairbench.errors import InvalidInput, UnknownName
from fairbench.kernels import projected_l2_step, projected_sign_step

__all__ = [
    "AnyNorm",
    "as_norm",
    "ascent_step",
    "columns",
    "diameter",
    "distance",
    "nearest_in_ball",
    "nearest_on_hyperplane",
    "rounding",
    "unit",
]

AnyNorm = Literal["Linf", "L2", "L1"]

_NORMS: dict[str, AnyNorm] = {"inf": "Linf", "2": "L2", "1": "L1"}
_STEPS: dict[str, Callable[..., Tensor]] = {"Linf": projected_sign_step, "L2": projected_l2_step}
_TINY = 1e-30
# Newton's method terminates on piecewise linear equations: three iterations suffice for most steps, six for extremes.
_NEWTON = 6
_HALVINGS = 50
_HALF_ULP = 2.0**-25  # the largest error of rounding a number below 1 to float32


def as_norm(norm: object) -> AnyNorm:
    """Return the norm for any of its spellings: "Linf", "linf", "inf", np.inf, "L2", "l_2", 2, "L1", 1; raises
    UnknownName.
    """
    text = str(norm).strip().lower().removeprefix("l").removeprefix("_").removesuffix(".0")
    if isinstance(norm, bool) or text not in _NORMS:
        raise UnknownName("norm", str(norm), get_args(AnyNorm))
    return _NORMS[text]


def diameter(norm: AnyNorm, numbers: int) -> float:
    """Return the distance between opposite corners of the box [0,1] of so many numbers."""
    return {"Linf": 1.0, "L2": math.sqrt(numbers), "L1": float(numbers)}[norm]


def rounding(norm: AnyNorm, numbers: int) -> float:
    """Return how far an image of so many numbers in [0,1] can move when they are rounded to float32."""
    return _HALF_ULP * diameter(norm, numbers)


def ascent_step(norm: str) -> Callable[..., Tensor]:
    """Return the kernel of one projected step of steepest ascent, (x_adv, gradient, x, eps, step) -> x_adv.

    Raises InvalidInput for a norm other than Linf and L2.
    """
    if norm not in _STEPS:
        raise InvalidInput(f"steepest ascent is defined in {' and '.join(_STEPS)}, not in {norm}")
    return _STEPS[norm]


def nearest_in_ball(z: Tensor, x: Tensor, eps: float, norm: AnyNorm) -> Tensor:
    """Project z on the ball of radius `eps` around x [B,...] in `norm` and on [0,1]; in Linf and L1 exactly, by L2
    distance.

    In L2 it projects on the ball and then on the box, which stays in the ball because x is in the box. In L1 it
    soft-thresholds z - x within each pixel's room (Croce and Hein, "Mind the box", ICML 2021, prop. 2.1); bisection
    finds the threshold.
    """
    if norm == "Linf":
        return z.clamp(x - eps, x + eps).clamp_(0.0, 1.0)
    delta = z - x
    if norm == "L2":
        shrink = (eps / distance(delta, "L2").clamp(min=_TINY)).clamp(max=1.0)
        return (x + columns(shrink, x) * delta).clamp_(0.0, 1.0)
    size, room = delta.abs(), torch.where(delta > 0, 1.0 - x, x)

    def moved(threshold: Tensor) -> Tensor:
        return torch.minimum((size - columns(threshold, x)).clamp(min=0.0), room)

    low = size.new_zeros(len(x))
    inside = moved(low).flatten(1).sum(1) <= eps
    high = size.flatten(1).amax(1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        over = moved(middle).flatten(1).sum(1) > eps
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    threshold = torch.where(inside, torch.zeros_like(high), high)
    return (x + delta.sign() * moved(threshold)).clamp_(0.0, 1.0)


def nearest_on_hyperplane(x: Tensor, w: Tensor, value: Tensor, norm: AnyNorm) -> Tensor:
    """Return the point of [0,1] nearest to x in `norm` at which an affine function is zero.

    The function has gradient w, shaped like x [B,...], and `value` [B] at x. If it has no zero in the box, the corner
    of the box nearest to one is returned; if w is zero, x is. Source: Croce and Hein, "Minimally distorted adversarial
    examples with a fast adaptive boundary attack", ICML 2020, eq. 5.
    """
    flat, slope, gap = x.flatten(1), w.flatten(1), value.abs()
    towards = -value.sign()[:, None] * slope.sign()
    room = torch.where(towards > 0, 1.0 - flat, flat)
    slope = slope.abs()
    # squares of a confident model's small gradients underflow: the steepest pixel is scaled to slope 1
    steepest = slope.amax(1, keepdim=True).clamp(min=_TINY)
    slope, gap = slope / steepest, gap / steepest.squeeze(1)
    moved = _greedy(slope, room, gap) if norm == "L1" else _level(slope, room, gap, norm)
    return (flat + towards * moved).clamp_(0.0, 1.0).view_as(x)


def distance(delta: Tensor, norm: AnyNorm) -> Tensor:
    """Return the norm of each row of delta [B,...] as [B]."""
    flat = delta.flatten(1)
    if norm == "Linf":
        return flat.abs().amax(1)
    return flat.abs().sum(1) if norm == "L1" else flat.square().sum(1).sqrt()


def unit(grad: Tensor) -> Tensor:
    """Return grad [B,...] scaled to L2 norm 1, zero where it is zero; entries as small as 1e-25 do not underflow."""
    scaled = grad / columns(grad.flatten(1).abs().amax(1).clamp(min=_TINY), grad)
    return scaled / columns(distance(scaled, "L2").clamp(min=_TINY), grad)


def columns(value: Tensor, like: Tensor) -> Tensor:
    """Return value [B] shaped to multiply `like` [B,...]."""
    return value.reshape(-1, *[1] * (like.dim() - 1))


def _level(slope: Tensor, room: Tensor, gap: Tensor, norm: AnyNorm) -> Tensor:
    """Move every pixel by min(level * speed, room), with speed 1 in Linf and the slope in L2, until the gap is closed.

    The closed part, sum slope * min(level * speed, room), is concave and piecewise linear in the level, so that
    Newton's method from zero increases monotonically to the solution.
    """
    speed = torch.ones_like(slope) if norm == "Linf" else slope
    rate, reach = slope * speed, slope * room
    full = reach.sum(1)
    # a pixel is free until level = room / speed; one without slope moves for no level worth having
    limit = room if norm == "Linf" else room / slope.clamp(min=_TINY)
    level = gap / rate.sum(1).clamp(min=_TINY)
    for _ in range(_NEWTON):
        free = (limit > level[:, None]).to(slope.dtype)
        closed_by_stuck = full - (reach * free).sum(1)
        level = torch.maximum(level, (gap - closed_by_stuck) / (rate * free).sum(1).clamp(min=_TINY))
    level = torch.where(full > gap, level, torch.full_like(level, 1 / _TINY))
    return torch.minimum(level[:, None] * speed, room) * (slope > 0)


def _greedy(slope: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """The L1 solution: exhaust the room of the pixels with the steepest slope first."""
    slope, order = slope.sort(dim=1, descending=True)
    room = room.gather(1, order)
    before = (slope * room).cumsum(1) - slope * room
    moved = torch.minimum(((gap[:, None] - before) / slope.clamp(min=_TINY)).clamp(min=0.0), room) * (slope > 0)
    return torch.zeros_like(moved).scatter(1, order, moved)
