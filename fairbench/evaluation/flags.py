"""Sanity checks of an evaluation: signs that a model only looks robust, after Carlini et al., "On Evaluating
Adversarial Robustness", 2019, section 5.

They run on the first images of every class, SUBSET in all (at least one a class), with attacks of at most 20 steps and
100 queries, so that they cost little beside the evaluation that they vouch for, and they change nothing in it. A flag
is named after the trouble it stands for. Unless said otherwise its value is a share of the images, and it is red above
the larger of 0.2 points and 2 images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from fairbench.attacks import Attack, Ball, ImageRNG, Threat, fgsm, pgd
from fairbench.attacks.apgd import apgd_ce
from fairbench.attacks.gradient import logits_and_gradient
from fairbench.attacks.losses import ce
from fairbench.attacks.projections import distance
from fairbench.attacks.square import square
from fairbench.data.split import first_of_each_class
from fairbench.errors import InvalidInput
from fairbench.evaluation.judge import attack_verdicts
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
) -> dict[str, Flag]:
    """Return every flag by name; images, labels and errors as for `attack_verdicts`, and the model is left as it was.

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
    - `black-box-wins`: how much lower accuracy is under 100 queries of Square than under PGD-20
    - `outside-ball`: value: how far beyond eps or [0,1] a perturbation goes, in units of eps; red above 1e-5
    - `small-n`: value: the fewest images of a class, over all `images`; red below 30
    """
    pixels, truth = as_tensor(images), as_labels(labels, len(images))
    counts = np.bincount(truth)
    fewest = int(counts[counts > 0].min())
    chosen = first_of_each_class(truth, SUBSET)
    pixels, truth = pixels[torch.from_numpy(chosen).to(pixels.device)], truth[chosen]
    return {
        **_forward_flags(model, pixels, truth, threat, device, seed),
        **_attack_flags(model, pixels, truth, threat, device, seed),
        "small-n": Flag(float(fewest), fewest < _SMALL_N),
    }


def _flag(value: float, n: int) -> Flag:
    """Return the flag of a share of n images."""
    return Flag(round(max(0.0, float(value)), 4), bool(value > max(0.002, 2 / n) + 1e-9))


def _forward_flags(
    model: nn.Module,
    pixels: Tensor,
    truth: NDArray[np.int64],
    threat: Threat,
    device: str | torch.device | None,
    seed: int,
) -> dict[str, Flag]:
    n = len(truth)
    with held(model, device) as where:
        x, y = as_input(pixels, where), torch.from_numpy(truth).to(where)
        model, _ = at_edge(model, x[:2])
        first, again = (_forward(model, x, _BATCH) for _ in range(2))
        mixed = _forward(model, x.flip(0), _MIXED).flip(0)
        index = torch.split(torch.arange(n, device=where), _BATCH)
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


def _attack_flags(
    model: nn.Module,
    pixels: Tensor,
    truth: NDArray[np.int64],
    threat: Threat,
    device: str | torch.device | None,
    seed: int,
) -> dict[str, Flag]:
    n, overshoot = len(truth), [0.0]

    def accuracy(attack: Callable[..., Tensor], eps: float = threat.eps, **settings: Any) -> float:
        tried = _tolerant(partial(attack, **settings), Ball(threat.norm, eps), overshoot)
        verdicts = attack_verdicts(model, pixels, truth, [tried], batch_size=SUBSET, device=device, seed=seed)
        return float(np.mean(verdicts[tried.text] == truth))

    def climbed(steps: int, eps: float = threat.eps) -> float:
        return accuracy(apgd_ce, eps, steps=steps) if l1 else accuracy(pgd, eps, steps=steps, step=eps / 4)

    l1, grey = threat.norm == "L1", float(distance(torch.full((1, pixels[0].numel()), 0.5), threat.norm))
    ten, twenty, blind = climbed(10), climbed(20), accuracy(square, queries=_QUERIES)
    one_step = climbed(1) if l1 else accuracy(fgsm)
    half, large = climbed(10, threat.eps / 2), climbed(10, max(grey, threat.eps))
    constant = np.bincount(truth).max() / n
    return {
        "not-monotone": _flag(max(ten - half, large - ten), n),
        "survives-large-eps": _flag(large - constant, n),
        "steps-help-defender": _flag(max(ten - one_step, twenty - ten), n),
        "black-box-wins": _flag(twenty - blind, n),
        "outside-ball": Flag(round(max(overshoot), 6), max(overshoot) > _OVERSHOOT),
    }


def _tolerant(attack: Callable[..., Tensor], ball: Ball, overshoot: list[float]) -> Attack:
    """Wrap an attack so that images it cannot attack, or leaves its ball with, stay as they are, the latter noted."""

    def craft(model: nn.Module, x: Tensor, y: Tensor, rng: ImageRNG) -> Tensor:
        try:
            x_adv = attack(model, x, y, eps=ball.eps, norm=ball.norm, rng=rng)
            logits(model, x_adv.nan_to_num(0.5).clamp(0, 1))
        except InvalidInput:  # the model has no gradient, or finite logits only where its own images are
            return x
        beyond = _beyond(x, x_adv, ball)
        overshoot.append(float(beyond.max()))
        return torch.where((beyond <= _OVERSHOOT)[:, None, None, None], x_adv, x)

    return Attack("sanity", "sanity", craft)


def _beyond(x: Tensor, x_adv: Tensor, ball: Ball) -> Tensor:
    """Return float32 [B]: by how much images leave [0,1] or the ball, in units of its radius; 2 for NaN."""
    outside = torch.maximum(-x_adv, x_adv - 1).flatten(1).amax(1).clamp(min=0)
    beyond = torch.maximum(outside, distance(x_adv - x, ball.norm) - ball.eps) / (ball.eps or 1.0)
    return beyond.clamp(min=0).nan_to_num(nan=2.0)
