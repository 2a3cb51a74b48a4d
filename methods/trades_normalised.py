"""TRADES divided by 1 + beta, the base of CFA (Wei et al., 2023)."""

from __future__ import annotations

from torch import nn

from fairbench import AttackOutput, Batch, StepOutput, hyper, register_method

from .sat import SAT
from .trades import TRADES, PassOrder, trades_loss

__all__ = ["NormalisedTRADES"]

CITATION = "Wei et al., CFA: Class-wise Calibrated Fair Adversarial Training, CVPR 2023, arXiv 2303.14460"


@register_method(
    "trades_normalised", summary="TRADES divided by 1 + beta, as in CFA", citation=CITATION, provenance="code"
)
class NormalisedTRADES(TRADES):
    """TRADES as CFA's script computes it: a sample's clean and boundary terms weigh 1 and beta out of 1 + beta."""

    clip_start = True
    paper_recipe = SAT.paper_recipe
    departures = ("The script's last clean pass in train mode precedes the optimiser's step here.",)
    pass_order: PassOrder = hyper("clean-adv-clean-clean", source="code: PKU-ML/CFA; the last pass counts accuracies")

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Mean of (CE(clean) + beta * KL) / (1 + beta), with each class's own beta."""
        y, logits = batch.y, self.passes(model, batch, attacked, self.pass_order)
        beta = self.beta * self.per_sample("beta", y)
        total = trades_loss(
            logits["clean"],
            logits["adv"],
            y,
            beta,
            weight_clean=self.sample_weights(y, "weight_clean") / (1 + beta),
            weight_adv=self.sample_weights(y, "weight_adv") / (1 + beta),
        )
        return StepOutput(total, logits_adv=logits["adv"], logits_clean=logits["clean"])
