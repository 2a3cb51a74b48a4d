"""TRIX (Medi et al., 2025), reconstructed from its abstract: targeted attacks on strong classes, untargeted on weak."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from fairbench import Batch, ClassRecord, Context, ImageRNG, cross_entropy, register_method, register_policy

from .dafa import Distances
from .fair_tat import draw_targets, target_distribution
from .sat import SAT

__all__ = ["TRIX", "TRIXWeights", "strong_classes"]

CITATION = "Medi et al., TRIX - Trading Adversarial Fairness via Mixed Adversarial Training, arXiv 2507.07768"


def strong_classes(robust_accuracy: Tensor) -> Tensor:
    """Which classes, bool [C], have a robust accuracy, float [C], above the mean; none where all are equal."""
    above = robust_accuracy - robust_accuracy[0]  # exactly 0 where all are equal, which their mean need not be
    return above > above.mean()


@register_policy("trix_weights", summary="DAFA's W as weight, margin and step", citation=CITATION)
class TRIXWeights(Distances):
    """Per-class loss weights and perturbation strengths "building on prior work", which we take to be DAFA."""

    supplies: ClassVar[tuple[str, ...]] = ("weight", "margin", "step")


@register_method(
    "trix_attacks",
    summary="TRIX's mixed attacks alone: SAT with targeted attacks on strong classes",
    citation=CITATION,
    provenance="ablation",
)
class TRIX(SAT):
    """Attack classes that were strong in the last epoch towards uniformly drawn classes, others away from theirs."""

    def setup(self, context: Context) -> None:
        """Start with no strong class: untargeted attacks."""
        super().setup(context)
        self.robust_accuracy = torch.zeros(context.num_classes, device=context.device)

    def attack_loss(self, model: nn.Module, batch: Batch, memo: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """Cross-entropy with the label, or less that with the target."""
        chances = target_distribution(torch.zeros_like(self.robust_accuracy), 1.0)[batch.y]
        rng = ImageRNG(self.context.seed, batch.index, stream=self.context.epoch + 1)
        target = draw_targets(chances, rng.uniform(batch.y.shape, restart=1))
        strong = strong_classes(self.robust_accuracy)[batch.y]
        aim, sign = torch.where(strong, target, batch.y), torch.where(strong, -1.0, 1.0)
        return lambda logits: sign * cross_entropy(logits, aim)

    def end_epoch(self, record: ClassRecord) -> None:
        """Note which classes withstood the attacks of this epoch."""
        super().end_epoch(record)
        self.robust_accuracy = record.mean("correct_adv")


register_method(
    "trix",
    base="trix_attacks",
    policies=["trix_weights"],
    summary="TRIX: mixed targeted and untargeted attacks with class-wise weights and margins",
    citation=CITATION,
    provenance="reconstruction",
)
