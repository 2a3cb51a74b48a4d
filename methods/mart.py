"""MART (Wang et al., 2020): adversarial training that emphasises misclassified samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairbench import AttackOutput, Batch, Method, StepOutput, hyper, kl_divergence, register_method

from .trades import OWN_BALL

__all__ = ["MART", "mart_loss", "mart_terms"]


def mart_terms(clean: Tensor, adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Per-sample terms [B] of MART from logits [B,C]: boosted cross-entropy, and the misclassification-aware KL.

    The first is -log p_adv[y] - log(1 - p_adv[k]) with k the most probable wrong class; the second is
    (1 - p_clean[y]) * KL(p_clean || p_adv). The released constants 1.0001, 1e-12 and 1.0000001 keep both finite.
    """
    true = y.unsqueeze(1)
    natural, log_adv = torch.softmax(clean.float(), dim=1), torch.log_softmax(adv.float(), dim=1)
    wrong = log_adv.exp().scatter(1, true, 0.0).amax(dim=1)
    boosted = -log_adv.gather(1, true).squeeze(1) - torch.log(1.0001 - wrong + 1e-12)
    doubt = 1.0000001 - natural.gather(1, true).squeeze(1)
    return boosted, doubt * kl_divergence(natural, adv)


def mart_loss(clean: Tensor, adv: Tensor, y: Tensor, beta: float | Tensor, *, weight: float | Tensor = 1.0) -> Tensor:
    """MART objective, a scalar: mean of both terms, the second times beta; beta and weight numbers or float [B]."""
    boosted, doubted = mart_terms(clean, adv, y)
    return (weight * (boosted + beta * doubted)).mean()


@register_method(
    "mart",
    summary="MART: boosted cross-entropy, and a KL with more weight on clean inputs of low confidence",
    citation="Wang et al., Improving Adversarial Robustness Requires Revisiting Misclassified Examples, ICLR 2020",
    provenance="code",
)
class MART(Method):
    """Weigh each sample's regulariser by 1 minus the probability of its class on the clean input."""

    reads = ("weight", "weight_adv", "margin", "step", "beta")
    attack_start = "gaussian"
    paper_recipe: ClassVar[Mapping[str, Any]] = {
        "lr": 0.01,
        "weight_decay": 3.5e-3,
        "nesterov": False,
        "epochs": 120,
        "milestones": (74 / 120, 89 / 120, 99 / 120),
    }
    departures = (OWN_BALL, "Optimiser and beta of the paper are those of the ResNet-18 script.")
    beta: float = hyper(
        5.0, source="code: YisenWang/MART, ResNet-18 (6 in its WRN script)", search=[2.5, 5.0, 7.5], ge=0
    )

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Both terms of the objective; `beta` is scaled per class if a policy supplies it."""
        clean, adv, y = model(batch.x), model(attacked.x_adv), batch.y
        total = mart_loss(
            clean, adv, y, self.beta * self.per_sample("beta", y), weight=self.sample_weights(y, "weight_adv")
        )
        return StepOutput(total, logits_adv=adv, logits_clean=clean)
