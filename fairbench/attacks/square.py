"""Square: random search over square patches, which reads logits only, in Linf, L2 and L1.

Source: Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via random search", ECCV
2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from fairbench.attacks.losses import cw_loss
from fairbench.attacks.patches import Round, tiles, transport, window
from fairbench.attacks.pool import Pool
from fairbench.attacks.projections import AnyNorm, columns
from fairbench.attacks.random import ImageRNG
from fairbench.attacks.ticking import tick
from fairbench.registration import register_attack

__all__ = ["patch_side", "square"]

Queries = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]

Proposal = Callable[[int, Tensor], Tensor]

# Queries after which the share of pixels that a patch covers is halved, as in the authors' code.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# Queries whose random numbers are drawn together; broken images leave the batch after them.
_CHUNK = 50
_RESTART = 1 << 20


@register_attack("square", summary="random search over square patches, 5000 queries, no gradients", copies="float32")
def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: AnyNorm = "Linf",
    queries: Queries = 5000,
    share: Share = 0.8,
    rng: ImageRNG,
) -> Tensor:
    """Return adversarial images like x float32 [B,C,H,W], or the points of smallest margin for images that did not
    break.

    `share` is the part of the image that the first patches cover; it is halved after fixed numbers of queries. A patch
    may lie anywhere in the image, as in the paper's algorithm 2. In the authors' code none reaches the last row or
    column, which leaves out a quarter of the pixels of an 8 x 8 image.
    """
    pool = Pool(x)
    with torch.no_grad():
        here = _STARTS[norm](x, eps, rng, _RESTART)
        rows: tuple[Tensor, ...] = (x, y, here, cw_loss(model(here), y), rng.index)
        for first in range(0, queries, _CHUNK):
            tick(first / queries)
            pool.look(rows[2], rows[3] > 0)
            rows = pool.release(rows)
            if not len(pool):
                break
            rows = _chunk(model, _Search(*rows), range(first, min(first + _CHUNK, queries)), share, eps, norm, rng)
        return pool.finish(rows[2])[0]


def patch_side(query: int, share: float, height: int, width: int) -> int:
    """Return the side in pixels of the patch for a query, counted from 0: at least 1 and less than the image's side."""
    share = share / 2 ** sum(query > after for after in _HALVINGS)
    return max(1, min(round(math.sqrt(share * height * width)), height - 1, width - 1))


class _Search(NamedTuple):
    """The state of a search, one row an image: best point, its margin (positive if broken), and the image's number."""

    x: Tensor
    y: Tensor
    here: Tensor
    margin: Tensor
    number: Tensor


def _chunk(
    model: nn.Module, s: _Search, queries: range, share: float, eps: float, norm: AnyNorm, rng: ImageRNG
) -> _Search:
    """Run queries whose random numbers are drawn together; patches of one size are built together."""
    draws = _draw(s.x, replace(rng, index=s.number), queries.start // _CHUNK)
    height, width = s.x.shape[2:]
    for side, group in groupby(queries, lambda query: patch_side(query, share, height, width)):
        numbers = [query - queries.start for query in group]
        propose = _PROPOSALS[norm](s.x, draws[numbers[0] : numbers[-1] + 1], side, eps)
        for k in range(len(numbers)):
            point = propose(k, s.here)
            margin = _margins(model, point, s)
            better = margin > s.margin
            here = torch.where(columns(better, point), point, s.here)
            s = s._replace(here=here, margin=torch.maximum(margin, s.margin))
    return s


def _margins(model: nn.Module, point: Tensor, s: _Search) -> Tensor:
    """Return the margins of proposals; unchanged ones, half of the one-pixel proposals in grey, skip the model.

    On a CUDA device all pass, because finding the unchanged ones would be a sync.
    """
    if point.device.type != "cpu":
        return cw_loss(model(point), s.y)
    moved = (point != s.here).flatten(1).any(1).nonzero().squeeze(1)
    if len(moved) == len(point):
        return cw_loss(model(point), s.y)
    margin = s.margin.clone()
    if len(moved):
        margin[moved] = cw_loss(model(point[moved]), s.y[moved])
    return margin


def _draw(x: Tensor, rng: ImageRNG, chunk: int) -> Tensor:
    """Return uniform numbers [_CHUNK, 5 + C, B]: corners of two windows, the direction of a cut, and a sign per
    channel.
    """
    width = 5 + x.shape[1]
    return rng.uniform((len(x), _CHUNK * width), _RESTART + 1 + chunk).view(len(x), _CHUNK, width).permute(1, 2, 0)


def _stripes(x: Tensor, eps: float, rng: ImageRNG, restart: int) -> Tensor:
    """The start in Linf: vertical stripes one pixel wide, +eps or -eps in each channel."""
    signs = rng.uniform((len(x), x.shape[1], 1, x.shape[3]), restart) < 0.5
    return torch.where(signs, x + eps, x - eps).clamp_(0.0, 1.0)


def _recolour(x: Tensor, draws: Tensor, side: int, eps: float) -> Proposal:
    """The proposals in Linf: one square each, with x + eps or x - eps in each channel."""
    down, across = window(draws[:, 0], x.shape[2], side), window(draws[:, 1], x.shape[3], side)
    inside = down[:, :, None, :, None] & across[:, :, None, None]
    change = torch.where(draws[:, 5:].transpose(1, 2) < 0.5, eps, -eps)[..., None, None]
    return lambda k, here: torch.where(inside[k], (x + change[k]).clamp_(0.0, 1.0), here)


def _transport(x: Tensor, draws: Tensor, side: int, eps: float, norm: Round) -> Proposal:
    """The proposals in L2 and L1: see `transport`."""
    return lambda k, here: transport(x, here, draws[k], side, eps, norm)


_STARTS: dict[str, Callable[[Tensor, float, ImageRNG, int], Tensor]] = {
    "Linf": _stripes,
    "L2": partial(tiles, norm="L2"),
    "L1": partial(tiles, norm="L1"),
}
_PROPOSALS: dict[str, Callable[[Tensor, Tensor, int, float], Proposal]] = {
    "Linf": _recolour,
    "L2": partial(_transport, norm="L2"),
    "L1": partial(_transport, norm="L1"),
}
