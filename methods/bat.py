"""BAT (Sun et al., 2023): train on images on both sides of the boundary, and push predictions to uniform."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairbench import (
    AttackOutput,
    Batch,
    ImageRNG,
    Method,
    SoftLabels,
    StepOutput,
    cross_entropy,
    frozen,
    hyper,
    register_method,
)

from .trades import trades_terms

__all__ = ["BAT", "bat_loss", "from_uniform"]

CODE = "code: silvercherry/Improving-Robust-Fairness-via-Balance-Adversarial-Training"
RECIPE = {"lr": 0.1, "weight_decay": 2e-4, "nesterov": False, "epochs": 200, "milestones": (0.37, 0.445, 0.495)}


def from_uniform(logits: Tensor) -> Tensor:
    """KL(softmax(logits) || uniform) = log C - entropy, in nats; logits [B,C] to [B]."""
    log_p = torch.log_softmax(logits.float(), dim=1)
    return math.log(logits.shape[1]) + (log_p.exp() * log_p).sum(dim=1)


def bat_loss(
    last: Tensor, first: Tensor, clean: Tensor, y: Tensor, beta: float, *, weight: float | Tensor = 1.0
) -> Tensor:
    """BAT's objective, a scalar, from logits [B,C] of three versions of each image and y int64 [B].

    `last` is the last iterate that is still correct, `first` lies just past the boundary. Mean over the batch of
    CE(last, y) + beta KL(p(clean) || p(first)) + KL(p(last) || uniform) + KL(p(first) || uniform). `weight` is a
    number, or float [B] with one value a sample.
    """
    values = cross_entropy(last, y) + beta * trades_terms(clean, first, y)[1] + from_uniform(last) + from_uniform(first)
    return (weight * values).mean()


@register_method(
    "bat",
    summary="BAT: the last correct and the first wrong image of each attack, with predictions pushed to uniform",
    citation="Sun et al., Improving Robust Fairness via Balance Adversarial Training, AAAI 2023, arXiv 2209.07534",
    provenance="code",
)
class BAT(Method):
    """Two attacks on TRADES's divergence, each from its own noise, that stop each sample near the decision boundary.

    A sample that is misclassified from the start keeps its noisy start as the last correct image; a sample that is
    never misclassified takes all steps in both attacks.
    """

    reads = ("weight", "margin", "step")
    attack_start = "gaussian"
    clip_start = True
    paper_recipe: ClassVar[Mapping[str, Any]] = RECIPE
    departures = (
        "The suite's epsilon and step take the place of 0.031 and 0.007.",
        "The samples keep the order of the batch; the script shuffles those of the second attack, without an effect.",
    )
    beta: float = hyper(6.0, source=CODE, search=[1.0, 3.0, 6.0], ge=0)
    spare_steps: int = hyper(1, source=f"{CODE}, tau: steps that a sample takes after its first wrong iterate", ge=0)

    def attack_loss(self, model: nn.Module, batch: Batch, memo: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """KL from the clean prediction in eval mode."""
        with torch.no_grad():
            return SoftLabels(model(batch.x).float())

    def attack(self, model: nn.Module, batch: Batch) -> AttackOutput:
        """Return the last correct images as x_adv and the images just past the boundary in the memo, as `first`."""
        with frozen(model, mode=self.attack_mode):
            loss = self.attack_loss(model, batch, {})
            x, before = (start := self.start(batch)), start
            stays, survived = torch.ones_like(batch.y, dtype=torch.bool), torch.zeros_like(batch.y)
            for _ in range(self.context.recipe.attack_steps):
                moved, correct = self.ascend(model, batch, loss, start=x, steps=1)
                stays = stays & correct.bool()
                x, before = _where(stays, moved, before), _where(stays, x, before)
                survived = survived + stays
            last, x = x, self.second_start(batch)
            stays, spare = torch.ones_like(stays), torch.full_like(batch.y, self.spare_steps)
            for _ in range(self.context.recipe.attack_steps):
                moved, correct = self.ascend(model, batch, loss, start=x, steps=1)
                stays = stays & (correct.bool() | (spare > 0))
                spare = spare - (~correct.bool()).long()
                x = _where(stays, moved, x)
        return AttackOutput(last, survived, memo={"first": x})

    def second_start(self, batch: Batch) -> Tensor:
        """The clipped Gaussian start of the second attack, float32 [B,C,H,W], independent of the first start."""
        noise = ImageRNG(self.context.seed, batch.index, stream=self.context.epoch + 1).normal(batch.x.shape, restart=1)
        return (batch.x + 0.001 * noise).clamp(0, 1)

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """The objective on three passes, in the order of the authors' script."""
        last, first, clean = (model(x) for x in (attacked.x_adv, attacked.memo["first"], batch.x))
        total = bat_loss(last, first, clean, batch.y, self.beta, weight=self.sample_weights(batch.y))
        return StepOutput(total, logits_adv=last, logits_clean=clean)


def _where(chosen: Tensor, images: Tensor, others: Tensor) -> Tensor:
    """Images [B,C,H,W] of the chosen samples, bool [B], and `others` for the rest."""
    return torch.where(chosen.view(-1, 1, 1, 1), images, others)
