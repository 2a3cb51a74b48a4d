"""TRADES (Zhang et al., 2019): clean cross-entropy plus a robustness regulariser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from fairbench import (
    AttackOutput,
    Batch,
    Method,
    SoftLabels,
    StepOutput,
    cross_entropy,
    hyper,
    kl_divergence,
    register_method,
)

__all__ = ["OWN_BALL", "TRADES", "PassOrder", "trades_loss", "trades_terms"]

PassOrder = Literal[
    "clean-adv", "adv-clean", "clean-adv-clean", "adv-clean-clean", "clean-adv-clean-adv", "clean-adv-clean-clean"
]

OWN_BALL = (
    "The suite decides epsilon and step; the scripts of TRADES, MART, WAT, DAFA, TRIX and HAM have 0.031 and 0.007."
)


def trades_terms(clean: Tensor, adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Per-sample terms [B] of TRADES from logits [B,C]: CE(clean, y) and KL(p(clean) || p(adv))."""
    return cross_entropy(clean, y), kl_divergence(torch.softmax(clean.float(), dim=1), adv)


def trades_loss(
    clean: Tensor,
    adv: Tensor,
    y: Tensor,
    beta: float | Tensor,
    *,
    weight_clean: float | Tensor = 1.0,
    weight_adv: float | Tensor = 1.0,
) -> Tensor:
    """TRADES objective, a scalar: mean CE(clean, y) + beta * batch mean of KL(p(clean) || p(adv)).

    `beta` and the weights of the two terms are numbers, or float [B] with one value a sample.
    """
    natural, boundary = trades_terms(clean, adv, y)
    return (weight_clean * natural).mean() + (weight_adv * (beta * boundary)).mean()


@register_method(
    "trades",
    summary="TRADES: clean cross-entropy plus beta times the KL between clean and adversarial predictions",
    citation=(
        "Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019, arXiv 1901.08573"
    ),
    provenance="code",
)
class TRADES(Method):
    """Trade clean accuracy for robustness with one coefficient, beta."""

    reads: ClassVar[tuple[str, ...]] = ("weight", "weight_clean", "weight_adv", "margin", "step", "beta")
    attack_start = "gaussian"
    paper_recipe: ClassVar[Mapping[str, Any]] = {
        "lr": 0.1,
        "weight_decay": 2e-4,
        "nesterov": False,
        "epochs": 76,
        "milestones": (74 / 76,),
    }
    departures: ClassVar[tuple[str, ...]] = (OWN_BALL,)
    beta: float = hyper(6.0, source="code: yaodongyu/TRADES", search=[1.0, 3.0, 6.0], ge=0)
    pass_order: PassOrder = hyper(
        "clean-adv-clean", source="code: yaodongyu/TRADES, which forwards the clean images twice"
    )

    def attack_loss(self, model: nn.Module, batch: Batch, memo: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """KL from the clean prediction, which is constant in eval mode and therefore computed once."""
        with torch.no_grad():
            return SoftLabels(model(batch.x).float())

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Weighted TRADES objective; `beta` is scaled per class if a policy supplies it."""
        y, logits = batch.y, self.passes(model, batch, attacked, self.pass_order)
        total = trades_loss(
            logits["clean"],
            logits["adv"],
            y,
            self.beta * self.per_sample("beta", y),
            weight_clean=self.sample_weights(y, "weight_clean"),
            weight_adv=self.sample_weights(y, "weight_adv"),
        )
        return StepOutput(total, logits_adv=logits["adv"], logits_clean=logits["clean"])
