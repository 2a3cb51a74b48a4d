"""Sanity checks of an evaluation: signs that a model only appears robust, after Carlini et al., "On Evaluating
Adversarial Robustness", 2019, section 5.

They run on a declared class-balanced subset of SUBSET images: the first of every class, the second of every class, and
so on. Their attacks take at most 20 steps or 50 queries, and craft images with the copy of the model that the
evaluation made. They do not change the evaluation. A flag is named after the problem that it indicates. Unless stated
otherwise its value is a share of the images, and it is red above the larger of 0.2 points and 2 images.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from fairbench.attacks import ImageRNG, Threat, remembered_copies
from fairbench.attacks.gradient import logits_and_gradient
from fairbench.attacks.losses import ce
from fairbench.attacks.square import square
from fairbench.copies import Engine
from fairbench.data.split import first_of_each_class
from fairbench.errors import InvalidInput
from fairbench.evaluation.attack_flags import QUERIES, Subset, attack_flags, share_flag, true_share
from fairbench.evaluation.edge import at_edge, logits
from fairbench.evaluation.pixels import Pixels, as_input, as_labels, as_tensor
from fairbench.evaluation.verdicts import Flag
from fairbench.evaluation.victim import held

__all__ = ["SUBSET", "raise_flags"]

SUBSET = 100
_MIXED = 34
_SMALL_N = 30
# Relative to the largest logit: the rounding difference between batch shapes, with a wide margin.
_ROUNDING = 1e-3
# Above this margin exp(-margin) is below float32's smallest normal number, and the cross-entropy's gradient is 0.
_MARGIN = 87.0


def raise_flags(
    model: nn.Module,
    images: Pixels,
    labels: ArrayLike,
    threat: Threat,
    *,
    device: str | torch.device | None = None,
    seed: int = 0,
    engine: Engine | None = None,
) -> dict[str, Flag]:
    """Return every flag by name; images, labels and errors as for `attack_verdicts`. The model is left unchanged.

    `engine` crafts the adversarial images, by default the device's. In L1, which has neither PGD nor FGSM, APGD takes
    their place.

    - `random-forward`: the logits differ when the same batch is evaluated again
    - `batch-dependent`: the logits of an image depend on the other images of its batch
    - `bad-gradient`: input gradients of the cross-entropy that are not finite, or that are zero or missing although the
      logits change in the ball; if they do not change there is no flag, because a constant model has gradient zero
    - `logit-scale`: the value is the median margin between the two largest logits; red if margins above 87 leave no
      gradient in float32, or if the outputs are probabilities
    - `not-monotone`: by how much robust accuracy under PGD-10 rises with eps, from eps/2 to eps to the large eps below
    - `survives-large-eps`: by how much robust accuracy at an eps that reaches plain grey exceeds a constant model's
    - `steps-help-defender`: by how much robust accuracy rises with the attack's steps, from FGSM to PGD-10 to PGD-20
    - `black-box-wins`: by how much accuracy under 50 queries of Square is below that under PGD-20; an upper bound if
      the flag is not red
    - `outside-ball`: the value is how far a perturbation exceeds eps or [0,1], rounding apart, in units of eps; red
      above 1e-5
    - `small-n`: the value is the smallest number of images of a class, over all `images`; red below 30
    """
    pixels, truth = as_tensor(images), as_labels(labels, len(images))
    counts = np.bincount(truth)
    fewest = int(counts[counts > 0].min())
    chosen = first_of_each_class(truth, SUBSET)
    pixels, truth = pixels[torch.from_numpy(chosen).to(pixels.device)], truth[chosen]
    with held(model, device) as where, remembered_copies(engine):
        x = as_input(pixels, where)
        model, _ = at_edge(model, x[:2])
        subset = Subset(model, x, torch.from_numpy(truth).to(where), threat, seed)
        first, gradient = logits(model, x), _gradient(subset)
        return {
            **_forward_flags(subset, first, gradient),
            **attack_flags(subset, first.argmax(1) == subset.y, gradient),
            "small-n": Flag(float(fewest), fewest < _SMALL_N),
        }


def _forward_flags(subset: Subset, first: Tensor, gradient: Tensor | None) -> dict[str, Flag]:
    """Return the flags that need logits and gradients alone; `first` [n,C] are the logits of the first forward pass."""
    model, x = subset.model, subset.x
    again, n = logits(model, x), len(x)
    mixed = torch.cat([logits(model, part) for part in torch.split(x.flip(0), _MIXED)]).flip(0)
    largest = first.topk(2, dim=1).values
    margin = largest[:, 0] - largest[:, 1]
    masked = true_share(margin > _MARGIN)
    sums = first.sum(1)
    is_probability = bool((first >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4))
    return {
        "random-forward": share_flag(_differing(first, again), n),
        "batch-dependent": share_flag(_differing(first, mixed), n),
        "bad-gradient": share_flag(_bad_gradients(subset, first, gradient) / n, n),
        "logit-scale": Flag(round(float(margin.median()), 4), is_probability or share_flag(masked, n).red),
    }


def _gradient(subset: Subset) -> Tensor | None:
    """Return the gradient of the cross-entropy with respect to the images, in their shape; None if there is none."""
    try:
        return logits_and_gradient(subset.model, subset.x, ce, subset.y)[1]
    except InvalidInput:
        return None


def _differing(one: Tensor, other: Tensor) -> float:
    return true_share(_differ(one, other))


def _differ(one: Tensor, other: Tensor) -> Tensor:
    """Return bool [B]: whether logits differ by more than rounding."""
    return (one - other).abs().amax(1) > _ROUNDING * one.abs().max()


def _bad_gradients(subset: Subset, first: Tensor, gradient: Tensor | None) -> int:
    """Count the images whose gradient is not finite, or is zero or missing although the model is not constant."""
    if gradient is None and _differ(first[:1], first).any():
        return len(first)
    rows = torch.zeros_like(subset.x).flatten(1) if gradient is None else gradient.flatten(1)
    zero = (rows == 0).all(1)
    if zero.any():
        zero[zero.clone()] = _changes(subset, zero.nonzero().squeeze(1))
    return int((zero | ~rows.isfinite().all(1)).sum())


def _changes(subset: Subset, rows: Tensor) -> Tensor:
    """Return bool [B]: whether Square, which needs no gradient, finds other logits in the balls of images `rows`."""
    model, threat, x, y = subset.model, subset.threat, subset.x[rows], subset.y[rows]
    rng = ImageRNG(subset.seed, rows)
    found = square(model, x, y, eps=threat.eps, norm=threat.norm, queries=QUERIES, rng=rng)
    try:
        return _differ(logits(model, x), logits(model, found))
    except InvalidInput:  # the logits are not finite elsewhere: the model is not constant
        return torch.ones_like(y, dtype=torch.bool)
