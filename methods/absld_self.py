"""ABSLD without a separate teacher: the soft labels come from a running average of the student's own weights."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from fairbench import Batch, Context, SoftLabels, StepOutput, hyper, register_method

from .rslad import RSLAD

__all__ = ["SelfRSLAD", "averaging_rate", "corrected_logits"]

CITATION = (
    "After Zhao et al., Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation, "
    "NeurIPS 2024, arXiv 2312.05508; self-distillation is a variant of ours"
)
CHOSEN = "chosen here"


def corrected_logits(teacher: Tensor, y: Tensor, label_share: float) -> Tensor:
    """Log-probabilities [B,C] of a mixture of the true label and the prediction of teacher logits [B,C]."""
    mixed = (1 - label_share) * torch.softmax(teacher.float(), dim=1)
    share = torch.full_like(mixed[:, :1], label_share)
    return mixed.scatter_add(1, y.unsqueeze(1), share).clamp(min=1e-12).log()


def averaging_rate(step: Tensor, decay: float) -> Tensor:
    """Share of the newest weights in the average after `step` steps: 1 - decay in the end, larger at the start."""
    return (9 / (10 + step.float())).clamp(min=1 - decay)


@register_method(
    "rslad_self",
    summary="RSLAD with a mixture of the label and the student's averaged prediction in place of a teacher",
    citation=CITATION,
    provenance="ablation",
)
class SelfRSLAD(RSLAD):
    """Self-distillation; the share of the true label keeps information in the soft labels."""

    needs = ()
    departures = (
        "A variant of this project, which no paper describes.",
        "The average follows the student faster at the start: its decay is 1 - 9 / (10 + step) until that is "
        "`average_decay`, which 0.999 reaches after 8,990 steps.",
    )
    kl_scale: float = hyper(1.0, source=f"{CHOSEN}, the scale of cross-entropy", gt=0)
    average_decay: float = hyper(0.999, source=CHOSEN, ge=0, lt=1)
    label_share: float = hyper(0.5, source=CHOSEN, search=[0.25, 0.5, 0.75], ge=0, le=1)

    def setup(self, context: Context) -> None:
        """Start the average at the student's initial weights."""
        super().setup(context)
        self.average = deepcopy(context.model).eval().requires_grad_(False)
        self.steps = torch.zeros((), dtype=torch.int64, device=context.device)

    def teacher_logits(self, x: Tensor) -> Tensor:
        """Logits [B,C] of the averaged student, without gradient."""
        with torch.no_grad():
            return self.average(x).float()  # type: ignore[no-any-return]

    def attack_loss(self, model: nn.Module, batch: Batch, memo: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """KL from the mixture of label and averaged student, at the class's temperature."""
        memo["teacher"] = corrected_logits(self.teacher_logits(batch.x), batch.y, self.label_share)
        return SoftLabels(memo["teacher"], self.per_sample("temperature_adv", batch.y))

    def step(self, closure: Callable[[], StepOutput]) -> StepOutput:
        """Update the average after the student's step; BatchNorm's statistics are copied without averaging."""
        output = super().step(closure)
        self.steps += 1
        rate = averaging_rate(self.steps, self.average_decay)
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.context.model.parameters(), strict=True):
                mean.lerp_(now, rate)
            for kept, new in zip(self.average.buffers(), self.context.model.buffers(), strict=True):
                kept.copy_(new)
        return output


register_method(
    "absld_self",
    base="rslad_self",
    policies=["absld_temperatures"],
    summary="ABSLD with an average of the student's own weights, mixed with the label, as its teacher",
    citation=CITATION,
    provenance="ablation",
)
