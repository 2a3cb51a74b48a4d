"""ABSLD (Zhao et al., 2024): anti-bias soft labels, a class-wise temperature for the teacher that follows the risk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fairbench import (
    ClassPolicy,
    ClassRecord,
    Context,
    hyper,
    kl_divergence,
    register_method,
    register_policy,
    soften,
)

__all__ = ["ABSLDTemperatures", "absld_loss", "soften", "update_temperatures"]

CITATION = (
    "Zhao et al., Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation, "
    "NeurIPS 2024, arXiv 2312.05508"
)
MILESTONES = "code: zhaoshiji123/ABSLD, epochs 215, 260 and 285 of 300"


def update_temperatures(tau: Tensor, risk: Tensor, rate: float, low: float, high: float) -> Tensor:
    """Sharpen the labels of classes whose risk is above the mean and smooth the others'; tau and risk float [C].

    The class farthest from the mean moves by exactly `rate`; equal risks change nothing. Clipped to [low, high].
    """
    gap = risk - risk.mean()
    gap = torch.where((risk == risk[0]).all(), 0.0, gap)  # equal risks need not equal their rounded mean
    largest = gap.abs().max()
    return (tau - rate * gap / torch.where(largest > 0, largest, 1.0)).clamp(low, high)


def absld_loss(student_adv: Tensor, student_clean: Tensor, soft_adv: Tensor, soft_clean: Tensor) -> Tensor:
    """ABSLD objective, a scalar, from student logits and soft labels [B,C]: 5/6 adversarial + 1/6 clean KL, over 10."""
    adversarial, clean = kl_divergence(soft_adv, student_adv), kl_divergence(soft_clean, student_clean)
    return 0.1 * (5 / 6 * adversarial.mean() + 1 / 6 * clean.mean())


@register_policy(
    "absld_temperatures",
    summary="Class-wise teacher temperatures that equalise the student's class-wise cross-entropy risk",
    citation=CITATION,
)
class ABSLDTemperatures(ClassPolicy):
    """Two temperatures per class, for the adversarial and the clean branch, updated once per epoch."""

    supplies: ClassVar[tuple[str, ...]] = ("temperature_adv", "temperature_clean")
    temperature_rate: float = hyper(0.1, source="code: zhaoshiji123/ABSLD", ge=0)
    temperature_low: float = hyper(0.5, source="code: zhaoshiji123/ABSLD", gt=0)
    temperature_high: float = hyper(5.0, source="code: zhaoshiji123/ABSLD", gt=0)
    rate_milestones: tuple[float, ...] = hyper((215 / 300, 260 / 300, 285 / 300), source=MILESTONES)
    rate_decay: float = hyper(0.1, source="code: zhaoshiji123/ABSLD", gt=0, le=1)
    shared_storage: bool = hyper(False, source="paper: two independent sets; the released script divides by both")

    def setup(self, context: Context) -> None:
        """Start with every temperature at 1: RSLAD."""
        super().setup(context)
        self.temperature_adv = torch.ones(context.num_classes, device=context.device)
        self.temperature_clean = torch.ones(context.num_classes, device=context.device)

    def end_epoch(self, record: ClassRecord) -> None:
        """Move both sets by the class means of the cross-entropy with the true label."""
        done = (self.context.epoch + 1) / self.context.epochs
        rate = self.temperature_rate * self.rate_decay ** sum(done >= milestone for milestone in self.rate_milestones)
        low, high = self.temperature_low, self.temperature_high
        self.temperature_adv = update_temperatures(self.temperature_adv, record.mean("ce_adv"), rate, low, high)
        self.temperature_clean = update_temperatures(self.temperature_clean, record.mean("ce_clean"), rate, low, high)

    def vectors(self) -> Mapping[str, Tensor]:
        """The two sets, or their product in both places, as one tensor divided in place twice gives."""
        if self.shared_storage:
            product = self.temperature_adv * self.temperature_clean
            return {"temperature_adv": product, "temperature_clean": product}
        return {"temperature_adv": self.temperature_adv, "temperature_clean": self.temperature_clean}


register_method(
    "absld",
    base="rslad",
    policies=["absld_temperatures"],
    summary="ABSLD: RSLAD with class-wise temperatures in two independent sets",
    citation=CITATION,
    provenance="paper",
)
register_method(
    "absld_released",
    base="rslad",
    policies=["absld_temperatures"],
    options={"absld_temperatures.shared_storage": True},
    summary="ABSLD as its published script computes it: both temperature sets divide one tensor",
    citation=CITATION,
    provenance="code",
)
