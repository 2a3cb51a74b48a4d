"""BAT (Sun et al., 2023), reconstructed from its abstract: balance the attack over source and target classes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fairbench import AttackOutput, Batch, ClassRecord, Context, cross_entropy, frozen, hyper, register_method

from .sat import SAT

__all__ = ["BAT", "extra_steps", "target_imbalance"]


def extra_steps(effort: Tensor, mean_extra: float) -> Tensor:
    """Attack steps beyond the boundary [C], in proportion to the class's mean effort to reach it, float [C].

    Their mean is `mean_extra`; where no class takes any effort, all get that many.
    """
    mean = effort.mean()
    return torch.where(mean > 0, mean_extra * effort / mean.clamp(min=1e-12), mean_extra)


def target_imbalance(logits: Tensor, y: Tensor) -> Tensor:
    """KL(uniform || p over the wrong classes) in nats, [B]; logits [B,C], y int64 [B]."""
    true = torch.zeros_like(logits, dtype=torch.bool).scatter(1, y.unsqueeze(1), True)
    wrong = logits.shape[1] - 1
    log_p = torch.log_softmax(logits.float().masked_fill(true, -torch.inf), dim=1).masked_fill(true, 0.0)
    return -log_p.sum(dim=1) / wrong - math.log(wrong)


@register_method(
    "bat",
    summary="BAT: SAT with attacks that end near the boundary and lean to no target class",
    citation="Sun et al., Improving Robust Fairness via Balance Adversarial Training, AAAI 2023, arXiv 2209.07534",
    provenance="reconstruction",
)
class BAT(SAT):
    """Stop each sample's attack a class-wise number of steps after it crosses the boundary."""

    mean_extra: float = hyper(3.0, source="own: steps beyond the boundary, of 10", ge=0)
    target_balance: float = hyper(0.2, source="own, in the range 0.1 to 0.5 useful to FERD's like term", ge=0)

    def setup(self, context: Context) -> None:
        """Start with the same number of extra steps for every class."""
        super().setup(context)
        self.effort = torch.zeros(context.num_classes, device=context.device)

    def attack_loss(self, model: nn.Module, batch: Batch, memo: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """Cross-entropy less the imbalance of the wrong classes' probabilities."""
        y, share = batch.y, self.target_balance
        return lambda logits: cross_entropy(logits, y) - share * target_imbalance(logits, y)

    def attack(self, model: nn.Module, batch: Batch) -> AttackOutput:
        """PGD that notes the steps each sample needs to cross the boundary, and lets it take its class's share more."""
        y, extra = batch.y, extra_steps(self.effort, self.mean_extra)[batch.y]
        crossed, effort, beyond = torch.zeros_like(y, dtype=torch.bool), torch.zeros_like(y), torch.zeros_like(y)
        with frozen(model, mode=self.attack_mode):
            loss = self.attack_loss(model, batch, {})
            x_adv = self.start(batch).clamp(0, 1)
            for _ in range(self.context.recipe.attack_steps):
                moved, correct = self.ascend(model, batch, loss, start=x_adv, steps=1)
                crossed = crossed | (correct == 0)
                moving = ~crossed | (beyond < extra)
                x_adv = torch.where(moving.view(-1, 1, 1, 1), moved, x_adv)
                effort, beyond = effort + ~crossed, beyond + crossed
        return AttackOutput(x_adv, survived=effort)

    def end_epoch(self, record: ClassRecord) -> None:
        """Take each class's mean steps to the boundary as its effort in the next epoch."""
        super().end_epoch(record)
        self.effort = record.mean("survived")
