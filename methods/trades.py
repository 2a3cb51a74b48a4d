"""TRADES (Zhang et al., 2019): clean cross-entropy plus a robustness regulariser."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fairbench import AttackOutput, Batch, Method, StepOutput, cross_entropy, hyper, kl_divergence, register_method
from fairbench.losses import SoftLabels

__all__ = ["TRADES", "trades_loss", "trades_terms"]


def trades_terms(clean: Tensor, adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Per-sample terms [B] of TRADES from logits [B,C]: CE(clean, y) and KL(p(clean) || p(adv))."""
    return cross_entropy(clean, y), kl_divergence(torch.softmax(clean.float(), dim=1), adv)


def trades_loss(clean: Tensor, adv: Tensor, y: Tensor, beta: float) -> Tensor:
    """TRADES objective, a scalar: mean CE(clean, y) + beta * batch mean of KL(p(clean) || p(adv))."""
    natural, boundary = trades_terms(clean, adv, y)
    return natural.mean() + beta * boundary.mean()


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
    attack_start: ClassVar[Literal["uniform", "gaussian"]] = "gaussian"
    beta: float = hyper(6.0, source="code: yaodongyu/TRADES", ge=0)

    def attack_loss(self, model: nn.Module, batch: Batch, memo: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """KL from the clean prediction, which is constant in eval mode and therefore computed once."""
        with torch.no_grad():
            return SoftLabels(model(batch.x).float())

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Weighted TRADES objective; `beta` is scaled per class where a policy supplies it."""
        clean, adv = model(batch.x), model(attacked.x_adv)
        natural, boundary = trades_terms(clean, adv, batch.y)
        boundary = self.beta * self.per_sample("beta", batch.y) * boundary
        total = self.mean(natural, batch.y, "weight_clean") + self.mean(boundary, batch.y, "weight_adv")
        return StepOutput(total, logits_adv=adv, logits_clean=clean)
