"""PGD towards each other class in turn, and the matrix of which classes an image can be moved into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from fairbench.attacks.apgd import Targets, random_start, ranked_targets
from fairbench.attacks.gradient import logits_and_gradient
from fairbench.attacks.losses import ce
from fairbench.attacks.pgd import Norm, Steps, StepSize
from fairbench.attacks.pool import Pool, spacing
from fairbench.attacks.projections import ascent_step
from fairbench.attacks.random import ImageRNG
from fairbench.registration import register_attack

__all__ = ["pgd_t", "reached", "targeted_flow"]

_EVERY = 1 << 20


@register_attack(
    "pgd-t", summary="PGD towards every other class, likeliest first, K steps each as in pgd-t-20", copies=True
)
def pgd_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    steps: Steps = 20,
    step: StepSize,
    targets: Targets = _EVERY,
    rng: ImageRNG,
) -> Tensor:
    """Return adversarial images like x float32 [B,C,H,W]: the first point whose class is not y, or x if there is none.

    Each run minimises the cross-entropy with its target class; `targets` limits them to the wrong classes of highest
    logit.
    """
    ranked = ranked_targets(model, x, y, targets)
    pool = Pool(x)
    for number in range(ranked.shape[1]):
        left = pool.alive
        if not len(left):
            break
        start = random_start(x[left], eps, norm, replace(rng, index=rng.index[left]), restart=number)
        found, broken = _towards(model, x[left], ranked[left, number], y[left], start, _escaped, eps, norm, steps, step)
        pool.look(found, broken)
        pool.release(())
    return pool.result


def reached(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    steps: int = 20,
    step: float,
    rng: ImageRNG,
) -> Tensor:
    """Return bool [B,C]: which classes each image can be moved into; every class is tried on every image.

    A point counts for its target only if the model predicts the target. Column y[b] says whether the image itself is
    classified correctly. The caller freezes the model, with `frozen`.
    """
    with torch.no_grad():
        predicted = model(x)
    hits = torch.zeros_like(predicted, dtype=torch.bool)
    for target in range(hits.shape[1]):
        start, aim = random_start(x, eps, norm, rng, restart=target), torch.full_like(y, target)
        hits[:, target] = _towards(model, x, aim, y, start, _arrived, eps, norm, steps, step)[1]
    return hits.scatter(1, y[:, None], (predicted.argmax(1) == y)[:, None])


def targeted_flow(labels: Tensor, hits: Tensor) -> Tensor:
    """Return float64 [C,C]: the share of the images of class i that can be moved into class j; NaN for a class without
    images.

    labels int64 [N] and hits bool [N,C] from `reached`. The diagonal is clean accuracy. Rows need not sum to 1, because
    an image may be moved into several classes.
    """
    num_classes = hits.shape[1]
    members: Tensor = torch.nn.functional.one_hot(labels, num_classes).to(torch.float64)
    return members.T @ hits.to(torch.float64) / members.sum(0)[:, None]


def _towards(
    model: nn.Module,
    x: Tensor,
    aim: Tensor,
    y: Tensor,
    start: Tensor,
    done: Callable[[Tensor, Tensor, Tensor], Tensor],
    eps: float,
    norm: Norm,
    steps: int,
    step: float,
) -> tuple[Tensor, Tensor]:
    """Minimise the cross-entropy with `aim` until `done`; return images [B,...], and bool [B]: which are done."""
    pool, move, every = Pool(x), ascent_step(norm), spacing(x.device)
    rows: tuple[Tensor, ...] = (x, start, aim, y)
    for k in range(steps + 1):
        origin, here, target, labels = rows
        logits, grad = logits_and_gradient(model, here, ce, target)
        pool.look(here, done(logits.argmax(1), target, labels))
        ahead = here if k == steps else move(here, -grad, origin, eps, step)
        rows = origin, ahead, target, labels
        if (k + 1) % every == 0:
            rows = pool.release(rows)
        if not len(pool):
            break
    return pool.finish(rows[0])


def _escaped(predicted: Tensor, aim: Tensor, y: Tensor) -> Tensor:
    return predicted != y


def _arrived(predicted: Tensor, aim: Tensor, y: Tensor) -> Tensor:
    return predicted == aim
