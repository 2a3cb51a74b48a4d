"""The square patches of the L2 Square attack, and how perturbation is moved from one window of an image to another.

Source: Andriushchenko et al., "Square Attack", ECCV 2020, section 4.3, equation 2 and algorithm 3.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from fairbench.attacks.projections import columns, distance
from fairbench.attacks.random import ImageRNG

__all__ = ["patch", "tiles", "transport", "window"]

_GRID = 5
_TINY = 1e-12


@lru_cache(maxsize=64)
def patch(side: int) -> Tensor:
    """Return float32 [side, side] of L2 norm 1: two rectangles of opposite sign, each highest in its middle."""
    top = side // 2
    whole: Tensor = torch.cat((_rectangle(top, side), -_rectangle(side - top, side)))
    return whole.div(whole.norm())


def tiles(x: Tensor, eps: float, rng: ImageRNG, restart: int) -> Tensor:
    """Return the start: a 5 x 5 grid of patches with random signs in each channel, of norm eps, brought into [0,1]."""
    height, width = x.shape[2:]
    side = max(1, min(height, width) // _GRID)
    down, across = min(_GRID, height // side), min(_GRID, width // side)
    signs = torch.where(rng.uniform((len(x), x.shape[1], down, across), restart) < 0.5, 1.0, -1.0)
    grid = torch.kron(signs.flatten(0, 1).contiguous(), patch(side).to(x.device)[None])
    grid = grid.view(len(x), x.shape[1], down * side, across * side)
    before, above = (width - across * side) // 2, (height - down * side) // 2
    delta = torch.nn.functional.pad(grid, (before, width - across * side - before, above, height - down * side - above))
    return _on_sphere(x, delta, eps)


def transport(x: Tensor, here: Tensor, draw: Tensor, side: int, eps: float) -> Tensor:
    """Return the proposal: perturbation leaves a second window for a patch in a first one, so that its norm is eps.

    x and here are [B,C,H,W]; draw [5 + C, B] are uniform numbers: two corners, the direction of the cut, signs.
    """
    height, width = x.shape[2:]
    delta = here - x
    first = _square(draw[0], draw[1], height, width, side)
    second = _square(draw[2], draw[3], height, width, side)
    unused = (eps**2 - delta.flatten(1).square().sum(1)).clamp(min=0.0) / x.shape[1]
    available = (((first | second) * delta).square().sum((2, 3)) + unused[:, None]).sqrt()
    bump = patch(side).to(x.device)
    bump = torch.where((draw[4] < 0.5)[:, None, None], bump, bump.T)
    signs = torch.where(draw[5:].T < 0.5, 1.0, -1.0)[:, :, None, None]
    old = first * delta
    mixed = old / old.flatten(2).norm(dim=2).clamp(min=_TINY)[:, :, None, None]
    mixed = mixed + signs * _place(bump, draw[0], draw[1], height, width, side)[:, None]
    mixed = mixed / mixed.flatten(2).norm(dim=2).clamp(min=_TINY)[:, :, None, None]
    moved = torch.where(first, mixed * available[:, :, None, None], torch.where(second, 0.0, delta))
    return _on_sphere(x, moved, eps)


def window(draw: Tensor, length: int, side: int) -> Tensor:
    """Return bool [..., length]: `side` neighbours, the first one drawn by uniform numbers [...]."""
    offset = _offset(draw, length, side)
    return (offset >= 0) & (offset < side)


def _offset(draw: Tensor, length: int, side: int) -> Tensor:
    return torch.arange(length, device=draw.device) - (draw * (length - side + 1)).long()[..., None]


def _square(down: Tensor, across: Tensor, height: int, width: int, side: int) -> Tensor:
    return window(down, height, side)[:, None, :, None] & window(across, width, side)[:, None, None]


def _place(bump: Tensor, down: Tensor, across: Tensor, height: int, width: int, side: int) -> Tensor:
    """Put patches [B, side, side] where the window is, zero elsewhere: [B, height, width]."""
    rows, cols = _offset(down, height, side), _offset(across, width, side)
    inside = window(down, height, side)[:, :, None] & window(across, width, side)[:, None]
    pick = rows.clamp(0, side - 1)[:, :, None] * side + cols.clamp(0, side - 1)[:, None]
    return bump.flatten(1).gather(1, pick.flatten(1)).view(-1, height, width) * inside


def _on_sphere(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    return (x + delta * columns(eps / distance(delta, "L2").clamp(min=_TINY), x)).clamp_(0.0, 1.0)


def _rectangle(height: int, width: int) -> Tensor:
    """Sum over k = 0..M of 1 / (n + 1 - k)^2 with n = height // 2 and M = n - max(|r - middle|, |s - middle|)."""
    n = height // 2
    down = (torch.arange(height) - n).abs()[:, None]
    across = (torch.arange(width) - width // 2).abs()[None]
    depth = n - torch.maximum(down.expand(height, width), across.expand(height, width))
    terms = torch.tensor([1.0 / (n + 1 - k) ** 2 for k in range(n + 1)]).cumsum(0)
    return torch.where(depth >= 0, terms[depth.clamp(min=0)], torch.zeros(()))
