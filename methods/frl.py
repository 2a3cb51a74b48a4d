"""FRL (Xu et al., 2021): Lagrange multipliers of class-wise error bounds become weights and margins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fairbench import ClassPolicy, Context, attacked_split, class_means, hyper, register_policy

from .trades import trades_terms

__all__ = [
    "FRLMargins",
    "FRLWeights",
    "class_weights",
    "limit_multipliers",
    "remargin_loss",
]

CITATION = (
    "Xu et al., To be Robust or to be Fair: Towards Fairness in Adversarial Training, ICML 2021, arXiv 2010.06121"
)
CODE = "code: hannxu123/fair_robust"


def class_weights(multipliers: Tensor) -> Tensor:
    """Loss weights [C] from multipliers [C] >= 0: 1/C + l - sum(l)/C, which sum to 1; positive while sum(l) < 1."""
    return 1 / len(multipliers) + multipliers - multipliers.sum() / len(multipliers)


def limit_multipliers(multipliers: Tensor, limit: float) -> Tensor:
    """Multipliers [C] made non-negative and, where their sum is above `limit`, scaled to that sum."""
    positive = multipliers.clamp(min=0)
    return positive * (limit / positive.sum().clamp(min=limit))


def remargin_loss(
    clean: Tensor, adv: Tensor, y: Tensor, weight_clean: Tensor, weight_boundary: Tensor, beta: float
) -> Tensor:
    """Objective of remargin, a scalar, from logits [B,C], y int64 [B] and class weights [C].

    Both terms share one divisor: sum(w0[y] CE(clean) + beta w1[y] KL(p(clean) || p(adv))) / sum(w0[y] + w1[y]). With
    equal weights that is half of mean CE + beta mean KL.
    """
    natural, boundary = trades_terms(clean, adv, y)
    clean_scale, boundary_scale = weight_clean[y], weight_boundary[y]
    return (clean_scale * natural + beta * boundary_scale * boundary).sum() / (clean_scale + boundary_scale).sum()


@register_policy("frl_weights", summary="Weights that bound each class's natural and boundary error", citation=CITATION)
class FRLWeights(ClassPolicy):
    """FRL's reweighting: a class whose error on the method split is too far above the mean gets a larger weight."""

    needs = ("method_split",)
    supplies: ClassVar[tuple[str, ...]] = ("weight_clean", "weight_adv")
    batch_normalised = ("weight_clean", "weight_adv")
    departures = ("The suite decides how many images a class are held out for the multipliers; the scripts take 300.",)
    bound: float = hyper(0.1, source=f"{CODE}, reweight and remargin; 0.07 for both", search=[0.05, 0.1, 0.15], ge=0)
    weight_rate: float = hyper(0.05, source=CODE, ge=0)
    rate_halvings: tuple[float, ...] = hyper(
        (1.0,), source=f"{CODE}: halved before the update of epoch 40 of 40; of epochs 40, 80 and 120 for remargin"
    )
    limit: float = hyper(0.5, source=f"{CODE}; 0.3 for remargin", gt=0, lt=1)
    split_steps: int = hyper(20, source=f"{CODE}, PGD-20 on the validation images", ge=1)

    def setup(self, context: Context) -> None:
        """Start with all multipliers at 0: equal weights, and epsilon for every class."""
        super().setup(context)
        self.natural, self.boundary, self.stretch = torch.zeros(3, context.num_classes, device=context.device)

    def begin_epoch(self, context: Context) -> None:
        """Move the multipliers by the amount by which each class's errors exceed the mean error and the bound."""
        seen = attacked_split(context, steps=self.split_steps)
        wrong = [(logits.argmax(dim=1) != seen.y).float() for logits in (seen.clean, seen.adv)]
        natural, robust = (class_means(values, seen.y, context.num_classes) for values in wrong)
        boundary = robust - natural
        self.update(natural - natural.mean() - self.bound, boundary - boundary.mean() - self.bound)

    def update(self, natural: Tensor, boundary: Tensor) -> None:
        """Ascend the multipliers by the violations [C] of the natural and the boundary constraints."""
        share = (self.context.epoch + 1) / self.context.epochs  # the authors count epochs from 1
        rate = self.weight_rate * 0.5 ** sum(share >= halving for halving in self.rate_halvings)
        self.natural = limit_multipliers(self.natural + rate * natural, self.limit)
        self.boundary = limit_multipliers(self.boundary + 2 * rate * boundary, self.limit)

    def vectors(self) -> Mapping[str, Tensor]:
        """Weights of the clean and the boundary term."""
        return {"weight_clean": class_weights(self.natural), "weight_adv": class_weights(self.boundary)}


@register_policy("frl_margins", summary="FRL's weights, and margins that grow with boundary error", citation=CITATION)
class FRLMargins(FRLWeights):
    """FRL's remargining, which keeps the weights of the clean term and, by default, of the boundary term."""

    supplies = ("weight_clean", "weight_adv", "margin")
    bound: float = hyper(0.07, source=f"{CODE}, both; 0.1 for remargin", search=[0.05, 0.07, 0.1], ge=0)
    margin_rate: float = hyper(0.2, source=f"{CODE}, both; 0.1 for remargin", ge=0)
    margin_low: float = hyper(0.98, source=CODE, gt=0)
    margin_high: float = hyper(3.0, source=f"{CODE}, both; 2.5 for remargin", ge=1)
    reweight_boundary: bool = hyper(True, source=f"{CODE}, both; False for remargin")

    def update(self, natural: Tensor, boundary: Tensor) -> None:
        """Update the margins by the boundary violations, with multipliers that may be negative."""
        super().update(natural, boundary)
        self.boundary = self.boundary * self.reweight_boundary
        self.stretch = self.stretch + self.margin_rate * boundary

    def vectors(self) -> Mapping[str, Tensor]:
        """Weights, and margins exp(2 l)."""
        return {**super().vectors(), "margin": torch.exp(2 * self.stretch).clamp(self.margin_low, self.margin_high)}
