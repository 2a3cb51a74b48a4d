"""FAIR-TAT (2024), reconstructed from its abstract: targeted attacks, towards classes that are overpredicted."""

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
    hyper,
    register_method,
)

from .sat import SAT

__all__ = ["FairTAT", "draw_targets", "target_distribution"]


def target_distribution(false_positives: Tensor, uniform_share: float) -> Tensor:
    """Chances [C,C] of each target (column) for each true class (row) from false-positive rates float [C].

    A row is 0 at its own class; elsewhere it is the uniform distribution by `uniform_share` and the rates' by the rest.
    Without any false positive it is uniform.
    """
    others = 1 - torch.eye(len(false_positives), device=false_positives.device)
    rates, uniform = others * false_positives, others / others.sum(dim=1, keepdim=True)
    total = rates.sum(dim=1, keepdim=True)
    rates = torch.where(total > 0, rates / torch.where(total > 0, total, 1.0), uniform)
    return uniform_share * uniform + (1 - uniform_share) * rates


def draw_targets(chances: Tensor, uniform: Tensor) -> Tensor:
    """Targets int64 [B] from chances [B,C] and uniform numbers [B] in [0,1); never one whose chance is 0."""
    cumulative = chances.cumsum(dim=1)
    return (uniform.unsqueeze(1) >= cumulative / cumulative[:, -1:]).sum(dim=1)


@register_method(
    "fair_tat",
    summary="FAIR-TAT: SAT on targeted attacks, targets drawn by last epoch's false positives",
    citation="FAIR-TAT: Improving Model Fairness Using Targeted Adversarial Training, arXiv 2410.23142",
    provenance="reconstruction",
)
class FairTAT(SAT):
    """Attack every sample towards a wrong class that is drawn anew in each epoch."""

    uniform_share: float = hyper(0.5, source="own: half of the targets are drawn uniformly", ge=0, le=1)

    def setup(self, context: Context) -> None:
        """Start without false positives: uniform targets."""
        super().setup(context)
        self.false_positives = torch.zeros(context.num_classes, device=context.device)

    def attack_loss(self, model: nn.Module, batch: Batch, memo: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """Less cross-entropy with the target."""
        chances = target_distribution(self.false_positives, self.uniform_share)[batch.y]
        rng = ImageRNG(self.context.seed, batch.index, stream=self.context.epoch + 1)
        target = draw_targets(chances, rng.uniform(batch.y.shape, restart=1))
        return lambda logits: -cross_entropy(logits, target)

    def statistics(self, batch: Batch, attacked: AttackOutput, output: StepOutput) -> dict[str, Tensor]:
        """The standard values, and the class predicted on the adversarial image as a row of zeros and a one."""
        values = super().statistics(batch, attacked, output)
        if output.logits_adv is not None:
            values["predicted_adv"] = F.one_hot(output.logits_adv.detach().argmax(dim=1), self.context.num_classes)
        return values

    def end_epoch(self, record: ClassRecord) -> None:
        """Count, over the true classes alike, how often each class was predicted for another."""
        super().end_epoch(record)
        confusion = record.mean("predicted_adv")
        self.false_positives = confusion.sum(dim=0) - confusion.diagonal()
