"""The square patches of Square in L2 and L1, and the transport of perturbation between two windows of an image.

Source: Andriushchenko et al., "Square Attack", ECCV 2020, section 4.3, equation 2 and algorithm 3; for L1 Croce and
Hein, "Mind the box", ICML 2021, section 4.2 and their code.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from fairbench.attacks.projections import columns, distance, nearest_in_ball
from fairbench.attacks.random import ImageRNG

__all__ = ["Round", "patch", "tiles", "transport", "window"]

Round = Literal["L2", "L1"]

_GRID = 5
# The exponent by which a patch decays from its middle: the k-th ring adds 1 / k to this power.
_FALL = {"L2": 2, "L1": 4}
_TINY = 1e-12


@lru_cache(maxsize=64)
def patch(side: int, norm: Round = "L2") -> Tensor:
    """Return float32 [side, side] of norm 1: two rectangles of opposite sign, each with its maximum in the middle."""
    top, fall = side // 2, _FALL[norm]
    whole: Tensor = torch.cat((_rectangle(top, side, fall), -_rectangle(side - top, side, fall)))
    return whole.div(distance(whole[None], norm))


def tiles(x: Tensor, eps: float, rng: ImageRNG, restart: int, norm: Round = "L2") -> Tensor:
    """Return the start: a 5 x 5 grid of patches with random signs in each channel, scaled to the ball's surface."""
    height, width = x.shape[2:]
    side = max(1, min(height, width) // _GRID)
    down, across = min(_GRID, height // side), min(_GRID, width // side)
    signs = torch.where(rng.uniform((len(x), x.shape[1], down, across), restart) < 0.5, 1.0, -1.0)
    grid = torch.kron(signs.flatten(0, 1).contiguous(), patch(side, norm).to(x.device)[None])
    grid = grid.view(len(x), x.shape[1], down * side, across * side)
    before, above = (width - across * side) // 2, (height - down * side) // 2
    delta = torch.nn.functional.pad(grid, (before, width - across * side - before, above, height - down * side - above))
    return _SURFACES[norm](x, delta, eps)


def transport(x: Tensor, here: Tensor, draw: Tensor, side: int, eps: float, norm: Round = "L2") -> Tensor:
    """Return the proposal: perturbation moves from a second window to a patch in the first one, and the norm becomes
    eps.

    x and here are [B,C,H,W]; draw [5 + C, B] are uniform numbers: two corners, the direction of the cut, signs.
    """
    height, width = x.shape[2:]
    delta = here - x
    first = _square(draw[0], draw[1], height, width, side)
    second = _square(draw[2], draw[3], height, width, side)
    available = _AVAILABLE[norm](delta, (first | second) * delta, eps)
    bump = patch(side, norm).to(x.device)
    bump = torch.where((draw[4] < 0.5)[:, None, None], bump, bump.T)
    signs = torch.where(draw[5:].T < 0.5, 1.0, -1.0)[:, :, None, None]
    old = first * delta
    mixed = _scaled(old, norm)
    mixed = mixed + signs * _place(bump, draw[0], draw[1], height, width, side)[:, None]
    mixed = _scaled(mixed, norm) * available[:, :, None, None]
    return _SURFACES[norm](x, torch.where(first, mixed, torch.where(second, 0.0, delta)), eps)


def window(draw: Tensor, length: int, side: int) -> Tensor:
    """Return bool [..., length]: a window of `side` neighbours that starts where uniform numbers [...] say."""
    offset = _offset(draw, length, side)
    return (offset >= 0) & (offset < side)


def _offset(draw: Tensor, length: int, side: int) -> Tensor:
    return torch.arange(length, device=draw.device) - (draw * (length - side + 1)).long()[..., None]


def _square(down: Tensor, across: Tensor, height: int, width: int, side: int) -> Tensor:
    return window(down, height, side)[:, None, :, None] & window(across, width, side)[:, None, None]


def _place(bump: Tensor, down: Tensor, across: Tensor, height: int, width: int, side: int) -> Tensor:
    """Place patches [B, side, side] in their windows, zero elsewhere: [B, height, width]."""
    rows, cols = _offset(down, height, side), _offset(across, width, side)
    inside = window(down, height, side)[:, :, None] & window(across, width, side)[:, None]
    pick = rows.clamp(0, side - 1)[:, :, None] * side + cols.clamp(0, side - 1)[:, None]
    return bump.flatten(1).gather(1, pick.flatten(1)).view(-1, height, width) * inside


def _scaled(delta: Tensor, norm: Round) -> Tensor:
    """Scale every channel of delta [B,C,H,W] to norm 1; zero channels stay zero."""
    order = 2 if norm == "L2" else 1
    size: Tensor = delta.flatten(2).norm(order, dim=2).clamp(min=_TINY)
    return delta / size[:, :, None, None]


def _on_sphere(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    return (x + delta * columns(eps / distance(delta, "L2").clamp(min=_TINY), x)).clamp_(0.0, 1.0)


def _on_diamond(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    return nearest_in_ball(x + delta, x, eps, "L1")


_SURFACES = {"L2": _on_sphere, "L1": _on_diamond}


def _squares(delta: Tensor, windows: Tensor, eps: float) -> Tensor:
    """Return the L2 norms [B,C] of the channels' patches: the norm in their windows and a share of what eps leaves."""
    unused = (eps**2 - delta.flatten(1).square().sum(1)).clamp(min=0.0) / delta.shape[1]
    return (windows.square().sum((2, 3)) + unused[:, None]).sqrt()


def _lengths(delta: Tensor, windows: Tensor, eps: float) -> Tensor:
    """Return the L1 norms likewise, times C as in the authors' code; the projection on the ball removes the excess."""
    unused = (eps - distance(delta, "L1")).clamp(min=0.0)
    return windows.abs().sum((2, 3)) * delta.shape[1] + unused[:, None]


_AVAILABLE = {"L2": _squares, "L1": _lengths}


def _rectangle(height: int, width: int, fall: int) -> Tensor:
    """Sum over k = 0..M of 1 / (n + 1 - k)^fall with n = height // 2 and M = n - max(|r - middle|, |s - middle|)."""
    n = height // 2
    down = (torch.arange(height) - n).abs()[:, None]
    across = (torch.arange(width) - width // 2).abs()[None]
    depth = n - torch.maximum(down.expand(height, width), across.expand(height, width))
    terms = torch.tensor([1.0 / (n + 1 - k) ** fall for k in range(n + 1)]).cumsum(0)
    return torch.where(depth >= 0, terms[depth.clamp(min=0)], torch.zeros(()))
