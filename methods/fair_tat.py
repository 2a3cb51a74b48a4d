"""FAIR-TAT (Medi et al., 2025): CFA on targeted attacks, towards the classes that are predicted by mistake."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairbench import (
    AttackOutput,
    Batch,
    ClassRecord,
    Context,
    ImageRNG,
    StepOutput,
    cross_entropy,
    register_method,
)

from .sat import NORMALISED, REFLECTED, SAT

__all__ = ["FairTAT", "draw_targets", "false_positive_share", "target_distribution"]

CITATION = (
    "Medi et al., FAIR-TAT: Improving Model Fairness Using Targeted Adversarial Training, WACV 2025, arXiv 2410.23142"
)
CODE = "code: TejaswiniMedi/FAIR-TAT"
SHARPNESS = 2.0


def target_distribution(false_positive_share: Tensor) -> Tensor:
    """Chances [C,C] of each target (column) for each true class (row), from the shares f float [C] of wrong
    predictions.

    softmax(2 f) without the true class, rescaled to a sum of 1: P(j | y) = q_j / (1 - q_y), and 0 for j = y.
    """
    classes = len(false_positive_share)
    own = torch.eye(classes, dtype=torch.bool, device=false_positive_share.device)
    return (SHARPNESS * false_positive_share).expand(classes, classes).masked_fill(own, -torch.inf).softmax(dim=1)


def false_positive_share(predicted: Tensor) -> Tensor:
    """The share of all misclassified samples that each class was predicted for, [C]; 0 without any.

    `predicted` float [C,C]: how many samples of the row's class were predicted as the column's.
    """
    wrong = predicted.sum(dim=0) - predicted.diagonal()
    return wrong / wrong.sum().clamp(min=1)


def draw_targets(chances: Tensor, uniform: Tensor) -> Tensor:
    """Targets int64 [B] from chances [B,C] and uniform numbers [B] in [0,1); a target with chance 0 is never drawn."""
    cumulative = chances.cumsum(dim=1)
    return (uniform.unsqueeze(1) >= cumulative / cumulative[:, -1:]).sum(dim=1)


@register_method(
    "fair_tat_attacks",
    summary="FAIR-TAT's attacks alone: SAT on targeted attacks, targets drawn by last epoch's false positives",
    citation=CITATION,
    provenance="ablation",
)
class FairTAT(SAT):
    """Attack every sample towards a wrong class, drawn anew in each epoch, and uniformly in the first."""

    attack_mode = "train"
    clip_start = True
    departures = (
        "Both clean passes in train mode precede the optimiser's step; the script makes the second one afterwards.",
        "Targets are always wrong classes; the script leaves a sample its own class if no other sample drew its own.",
        "Shares and accuracies use true class counts; the script divides accuracies by N/C.",
        "fair_tat_attacks draws targets by false positives; without adaptive margins the script draws them uniformly.",
        NORMALISED,
        REFLECTED,
    )

    def setup(self, context: Context) -> None:
        """Start without false positives, which gives uniform targets."""
        super().setup(context)
        self.false_positives = torch.zeros(context.num_classes, device=context.device)

    def attack_loss(self, model: nn.Module, batch: Batch, memo: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """Negative cross-entropy with the target."""
        chances = target_distribution(self.false_positives)[batch.y]
        rng = ImageRNG(self.context.seed, batch.index, stream=self.context.epoch + 1)
        target = draw_targets(chances, rng.uniform(batch.y.shape, restart=1))
        return lambda logits: -cross_entropy(logits, target)

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Mean cross-entropy on the adversarial inputs; two clean passes update BatchNorm alone."""
        logits = self.passes(model, batch, attacked, "adv-clean-clean", silent=("clean",))
        total = self.mean(cross_entropy(logits["adv"], batch.y), batch.y, "weight_adv")
        return StepOutput(total, logits_adv=logits["adv"], logits_clean=logits["clean"])

    def statistics(self, batch: Batch, attacked: AttackOutput, output: StepOutput) -> dict[str, Tensor]:
        """The standard values, and the prediction on the adversarial image as a one-hot row."""
        values = super().statistics(batch, attacked, output)
        if output.logits_adv is not None:
            values["predicted_adv"] = F.one_hot(output.logits_adv.detach().argmax(dim=1), self.context.num_classes)
        return values

    def end_epoch(self, record: ClassRecord) -> None:
        """Count how often each class was predicted for another, as a share of all errors."""
        super().end_epoch(record)
        self.false_positives = false_positive_share(record.sums["predicted_adv"])


register_method(
    "fair_tat",
    base="fair_tat_attacks",
    policies=["cfa_margins", "fawa"],
    options={"cfa_margins.begin": 0.005, "fawa.averaging_begin": 0.0},
    summary="FAIR-TAT: targeted attacks in margins that grow with the class's accuracy, and averaging of fair epochs",
    citation=CITATION,
    provenance="code",
)
