"""Sanity checks of an evaluation: signs that a model only looks robust, after Carlini et al., "On Evaluating
Adversarial Robustness", 2019, section 5.

They run on a declared class-balanced subset, SUBSET images in all: the first of every class, the second of every class,
and so on. Their attacks take at most 20 steps or 100 queries, and are crafted with the copy of the model that the
evaluation made. They change nothing in the evaluation. A flag is named after the trouble it stands for. Unless said
otherwise its value is a share of the images, and it is red above the larger of 0.2 points and 2 images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from fairbench.attacks import Ball, ImageRNG, Threat, craft_by_rule, fgsm, pgd, remembered_copies
from fairbench.attacks.apgd import apgd_ce
from fairbench.attacks.gradient import logits_and_gradient
from fairbench.attacks.losses import ce
from fairbench.attacks.pgd import climb
from fairbench.attacks.projections import distance
from fairbench.attacks.square import square
from fairbench.copies import Engine
from fairbench.data.split import first_of_each_class
from fairbench.errors import InvalidInput
from fairbench.evaluation.pixels import Pixels, as_input, as_labels, as_tensor
from fairbench.evaluation.verdicts import Flag
from fairbench.evaluation.victim import at_edge, held, logits

__all__ = ["SUBSET", "check"]

SUBSET = 100
_BATCH = 25
_MIXED = 7
_QUERIES = 100
_SMALL_N = 30
# Of the largest logit: what floating-point sums differ by between batch shapes, with a wide margin.
_ROUNDING = 1e-3
# From here on exp(-margin) is below float32's smallest normal number, and the gradient of the cross-entropy is 0.
_MARGIN = 87.0
_OVERSHOOT = 1e-5


def check(
    model: nn.Module,
    images: Pixels,
    labels: ArrayLike,
    threat: Threat,
    *,
    device: str | torch.device | None = None,
    seed: int = 0,
    engine: Engine | None = None,
) -> dict[str, Flag]:
    """Return every flag by name; images, labels and errors as for `attack_verdicts`, and the model is left as it was.

    `engine` is what the attacks are crafted with, by default the device's.

    In L1, where there is neither PGD nor FGSM, APGD takes their place.

    - `random-forward`: logits that differ when the same batch is shown again
    - `batch-dependent`: logits that differ when an image stands among others
    - `bad-gradient`: input gradients of the cross-entropy that are not finite, or that are zero or not there although
      the logits change in the ball; no flag where they do not change: a zero is right where a model is constant
    - `logit-scale`: value: the median margin between the two largest logits; red when margins above 87 leave float32
      no gradient, or when the outputs are probabilities
    - `not-monotone`: how much more robust a larger eps makes it: eps/2, eps and the large one below, PGD-10
    - `survives-large-eps`: robust accuracy at an eps that reaches plain grey, beyond the 1/C that a constant keeps
    - `steps-help-defender`: how much more robust more steps make it: FGSM, PGD-10, PGD-20
    - `black-box-wins`: how much lower accuracy is under 100 queries of Square than under PGD-20; an upper bound of that
      where it is not red
    - `outside-ball`: value: how far beyond eps or [0,1] a perturbation goes, in units of eps; red above 1e-5
    - `small-n`: value: the fewest images of a class, over all `images`; red below 30
    """
    pixels, truth = as_tensor(images), as_labels(labels, len(images))
    counts = np.bincount(truth)
    fewest = int(counts[counts > 0].min())
    chosen = first_of_each_class(truth, SUBSET)
    pixels, truth = pixels[torch.from_numpy(chosen).to(pixels.device)], truth[chosen]
    with held(model, device) as where, remembered_copies(engine):
        x = as_input(pixels, where)
        model, _ = at_edge(model, x[:2])
        subset = _Subset(model, x, torch.from_numpy(truth).to(where), threat, seed)
        return {
            **_forward_flags(subset),
            **_attack_flags(subset),
            "small-n": Flag(float(fewest), fewest < _SMALL_N),
        }


class _Subset(NamedTuple):
    """A model that is held still, the images x [n,C,H,W] with labels y [n] that it is checked on, and the threat."""

    model: nn.Module
    x: Tensor
    y: Tensor
    threat: Threat
    seed: int


def _flag(value: float, n: int) -> Flag:
    """Return the flag of a share of n images."""
    return Flag(round(max(0.0, float(value)), 4), bool(value > max(0.002, 2 / n) + 1e-9))


def _forward_flags(subset: _Subset) -> dict[str, Flag]:
    model, x, y, threat, seed = subset
    n = len(y)
    first, again = (_forward(model, x, _BATCH) for _ in range(2))
    mixed = _forward(model, x.flip(0), _MIXED).flip(0)
    index = torch.split(torch.arange(n, device=x.device), _BATCH)
    bad = sum(_bad_gradients(model, x[part], y[part], ImageRNG(seed, part), threat) for part in index)
    largest = first.topk(2, dim=1).values
    margin = largest[:, 0] - largest[:, 1]
    masked = float((margin > _MARGIN).float().mean())
    sums = first.sum(1)
    is_probability = bool((first >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4))
    return {
        "random-forward": _flag(_differing(first, again), n),
        "batch-dependent": _flag(_differing(first, mixed), n),
        "bad-gradient": _flag(bad / n, n),
        "logit-scale": Flag(round(float(margin.median()), 4), is_probability or _flag(masked, n).red),
    }


def _forward(model: nn.Module, x: Tensor, size: int) -> Tensor:
    return torch.cat([logits(model, part) for part in torch.split(x, size)])


def _differing(one: Tensor, other: Tensor) -> float:
    return float(_differ(one, other).float().mean())


def _differ(one: Tensor, other: Tensor) -> Tensor:
    """Return bool [B]: where logits differ by more than rounding."""
    return (one - other).abs().amax(1) > _ROUNDING * one.abs().max()


def _bad_gradients(model: nn.Module, x: Tensor, y: Tensor, rng: ImageRNG, threat: Threat) -> int:
    """Count the images whose gradient is not finite, or is zero where the model is not constant."""
    try:
        _, gradient = logits_and_gradient(model, x, ce, y)
    except InvalidInput:  # no gradient at all
        gradient = torch.zeros_like(x)
    rows = gradient.flatten(1)
    zero = (rows == 0).all(1)
    if zero.any():
        zero[zero.clone()] = _changes(model, x[zero], y[zero], replace(rng, index=rng.index[zero]), threat)
    return int((zero | ~rows.isfinite().all(1)).sum())


def _changes(model: nn.Module, x: Tensor, y: Tensor, rng: ImageRNG, threat: Threat) -> Tensor:
    """Return bool [B]: whether Square, which needs no gradient, finds other logits within the ball around an image."""
    found = square(model, x, y, eps=threat.eps, norm=threat.norm, queries=_QUERIES, rng=rng)
    try:
        return _differ(logits(model, x), logits(model, found))
    except InvalidInput:  # no finite logits beside its own images: not constant
        return torch.ones_like(y, dtype=torch.bool)


def _attack_flags(subset: _Subset) -> dict[str, Flag]:
    threat, n, overshoot = subset.threat, len(subset.y), [0.0]
    l1, grey = threat.norm == "L1", float(distance(torch.full((1, subset.x[0].numel()), 0.5), threat.norm))

    def tried(
        attack: Callable[..., Tensor], eps: float = threat.eps, rows: Tensor | None = None, **settings: Any
    ) -> Tensor:
        return _tried(
            subset, partial(attack, **settings), Ball(threat.norm, eps), overshoot, rows, attack is not square
        )

    def climbed(steps: int, eps: float = threat.eps) -> Tensor:
        return tried(apgd_ce, eps, steps=steps) if l1 else tried(pgd, eps, steps=steps, step=eps / 4)

    def further(found: Tensor) -> Tensor:
        """Ten steps more from where ten steps led."""
        return tried(_continued, start=found, steps=10, step=threat.eps / 4)

    def accuracy(found: Tensor) -> float:
        return float(_survives(subset, found).float().mean())

    short = climbed(10)
    long = climbed(20) if l1 else further(short)
    ten, twenty, standing = accuracy(short), accuracy(long), _survives(subset, long)
    one_step = accuracy(climbed(1) if l1 else tried(fgsm))
    half, large = accuracy(climbed(10, threat.eps / 2)), accuracy(climbed(10, max(grey, threat.eps)))
    # Square wins at most what it breaks where PGD failed. What it does elsewhere counts only where that would be red.
    wins = float((standing & ~_survives(subset, tried(square, rows=standing, queries=_QUERIES))).sum()) / n
    if _flag(wins, n).red:
        wins -= float((~standing & _survives(subset, tried(square, rows=~standing, queries=_QUERIES))).sum()) / n
    constant = int(subset.y.bincount().max()) / n
    return {
        "not-monotone": _flag(max(ten - half, large - ten), n),
        "survives-large-eps": _flag(large - constant, n),
        "steps-help-defender": _flag(max(ten - one_step, twenty - ten), n),
        "black-box-wins": _flag(wins, n),
        "outside-ball": Flag(round(max(overshoot), 6), max(overshoot) > _OVERSHOOT),
    }


def _continued(model: nn.Module, x: Tensor, y: Tensor, *, start: Tensor, rng: ImageRNG, **settings: Any) -> Tensor:
    """PGD from `start`, images of the whole subset, of which x are those of the numbers in `rng`."""
    return climb(model, x, y, start[rng.index], **settings)


def _survives(subset: _Subset, found: Tensor) -> Tensor:
    """Return bool [n]: which of the images are classified correctly after an attack."""
    return logits(subset.model, found).argmax(1) == subset.y


def _tried(
    subset: _Subset,
    attack: Callable[..., Tensor],
    ball: Ball,
    overshoot: list[float],
    rows: Tensor | None,
    bf16: bool,
) -> Tensor:
    """Attack the subset, or its `rows` bool [n]. Images that an attack cannot attack, or leaves its ball with, stay.

    How far it leaves the ball is added to `overshoot`.
    """
    model, x, y, _, seed = subset
    chosen = torch.arange(len(y), device=x.device) if rows is None else rows.nonzero().squeeze(1)
    if not len(chosen):
        return x
    x_adv, rng = x.clone(), ImageRNG(seed, chosen)
    try:
        x_adv[chosen] = craft_by_rule(
            partial(attack, eps=ball.eps, norm=ball.norm), model, x[chosen], y[chosen], rng, bf16=bf16
        )
        logits(model, x_adv.nan_to_num(0.5).clamp(0, 1))
    except InvalidInput:  # the model has no gradient, or finite logits only where its own images are
        return x
    beyond = _beyond(x, x_adv, ball)
    overshoot.append(float(beyond.max()))
    return torch.where((beyond <= _OVERSHOOT)[:, None, None, None], x_adv, x)


def _beyond(x: Tensor, x_adv: Tensor, ball: Ball) -> Tensor:
    """Return float32 [B]: by how much images leave [0,1] or the ball, in units of its radius; 2 for NaN."""
    outside = torch.maximum(-x_adv, x_adv - 1).flatten(1).amax(1).clamp(min=0)
    beyond = torch.maximum(outside, distance(x_adv - x, ball.norm) - ball.eps) / (ball.eps or 1.0)
    return beyond.clamp(min=0).nan_to_num(nan=2.0)
