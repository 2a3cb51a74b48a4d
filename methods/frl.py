"""FRL (Xu et al., 2021): Lagrange multipliers of class-wise error bounds become weights and margins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairbench import ClassPolicy, Context, attacked_split, class_means, hyper, register_method, register_policy

from .trades import TRADES

__all__ = ["FRLMargins", "FRLWeights", "FineTunedTRADES", "class_weights", "limit_multipliers"]

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


@register_policy("frl_weights", summary="Weights that bound each class's natural and boundary error", citation=CITATION)
class FRLWeights(ClassPolicy):
    """FRL's reweighting: a class whose error on the method split is too far above the mean gets a larger weight."""

    needs: ClassVar[tuple[str, ...]] = ("method_split",)
    supplies: ClassVar[tuple[str, ...]] = ("weight_clean", "weight_adv")
    batch_normalised: ClassVar[tuple[str, ...]] = ("weight_clean", "weight_adv")
    bound: float = hyper(0.1, source=f"{CODE}, reweight and remargin; 0.07 for both", ge=0)
    weight_rate: float = hyper(0.05, source=CODE, ge=0)
    limit: float = hyper(0.5, source=f"{CODE}; 0.3 for remargin", gt=0, lt=1)
    split_steps: int = hyper(20, source=f"{CODE}, PGD-20 on the validation images", ge=1)

    def setup(self, context: Context) -> None:
        """Start with all multipliers at 0: equal weights, and epsilon for every class."""
        super().setup(context)
        self.natural, self.boundary, self.stretch = torch.zeros(3, context.num_classes, device=context.device)

    def begin_epoch(self, context: Context) -> None:
        """Move the multipliers by how far each class's errors lie above the mean error and the bound."""
        seen = attacked_split(context, steps=self.split_steps)
        wrong = [(logits.argmax(dim=1) != seen.y).float() for logits in (seen.clean, seen.adv)]
        natural, robust = (class_means(values, seen.y, context.num_classes) for values in wrong)
        boundary = robust - natural
        self.update(natural - natural.mean() - self.bound, boundary - boundary.mean() - self.bound)

    def update(self, natural: Tensor, boundary: Tensor) -> None:
        """Ascend the multipliers by the violations [C] of the natural and the boundary constraints."""
        self.natural = limit_multipliers(self.natural + self.weight_rate * natural, self.limit)
        self.boundary = limit_multipliers(self.boundary + 2 * self.weight_rate * boundary, self.limit)

    def vectors(self) -> Mapping[str, Tensor]:
        """Weights of the clean and the boundary term."""
        return {"weight_clean": class_weights(self.natural), "weight_adv": class_weights(self.boundary)}


@register_policy("frl_margins", summary="FRL's weights, and margins that grow with boundary error", citation=CITATION)
class FRLMargins(FRLWeights):
    """FRL's remargining, which keeps the weights of the clean term and, by default, of the boundary term."""

    supplies: ClassVar[tuple[str, ...]] = ("weight_clean", "weight_adv", "margin", "step")
    bound: float = hyper(0.07, source=f"{CODE}, both; 0.1 for remargin", ge=0)
    margin_rate: float = hyper(0.2, source=f"{CODE}, both; 0.1 for remargin", ge=0)
    margin_low: float = hyper(0.98, source=CODE, gt=0)
    margin_high: float = hyper(3.0, source=f"{CODE}, both; 2.5 for remargin", ge=1)
    reweight_boundary: bool = hyper(True, source=f"{CODE}, both; False for remargin")

    def update(self, natural: Tensor, boundary: Tensor) -> None:
        """Margins follow the boundary violations, with multipliers that may be negative."""
        super().update(natural, boundary)
        self.boundary = self.boundary * self.reweight_boundary
        self.stretch = self.stretch + self.margin_rate * boundary

    def vectors(self) -> Mapping[str, Tensor]:
        """Weights, margins exp(2 l), and for every class the step of the largest margin."""
        margin = torch.exp(2 * self.stretch).clamp(self.margin_low, self.margin_high)
        return {**super().vectors(), "margin": margin, "step": margin.max().expand_as(margin)}


@register_method("trades_finetuned", summary="TRADES, fine-tuned as in FRL", citation=CITATION, provenance="code")
class FineTunedTRADES(TRADES):
    """TRADES from a warm start: FRL's 40 epochs, as a share of the 100 that its warm start is taken to have had."""

    needs: ClassVar[tuple[str, ...]] = ("warm_start",)
    own_recipe: ClassVar[Mapping[str, Any]] = {"epochs": 0.4, "lr": 0.001, "schedule": "constant"}
    beta: float = hyper(1.5, source=f"{CODE}; 1.0 for remargin", ge=0)


BASE = "trades_finetuned"
WEIGHTS = "FRL, reweight: class-wise weights of the clean and the boundary term, fine-tuned"
MARGINS = "FRL, remargin: class-wise margins and weights of the clean term, fine-tuned"
BOTH = "FRL, reweight and remargin: class-wise weights and margins, fine-tuned"
REMARGIN = {"beta": 1.0, "bound": 0.1, "margin_rate": 0.1, "margin_high": 2.5, "limit": 0.3, "reweight_boundary": False}
register_method(
    "frl_reweight", base=BASE, policies=["frl_weights"], summary=WEIGHTS, citation=CITATION, provenance="code"
)
register_method("frl", base=BASE, policies=["frl_margins"], summary=BOTH, citation=CITATION, provenance="code")
register_method(
    "frl_remargin",
    base=BASE,
    policies=["frl_margins"],
    options=REMARGIN,
    summary=MARGINS,
    citation=CITATION,
    provenance="code",
)
