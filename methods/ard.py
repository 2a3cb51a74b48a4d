"""ARD (Goldblum et al., 2020): on adversarial inputs the student matches the teacher's predictions on clean inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairbench import (
    AttackOutput,
    Batch,
    Method,
    StepOutput,
    cross_entropy,
    hyper,
    kl_divergence,
    register_method,
    soften,
)

__all__ = ["ARD", "ONE_DROP", "OPTIMISER", "ard_term"]

CODE = "code: goldblum/AdversariallyRobustDistillation"
OPTIMISER = {"lr": 0.1, "weight_decay": 2e-4, "nesterov": False, "epochs": 200, "milestones": (0.5,)}
ONE_DROP = "A suite's milestones may drop the rate twice; in the script the second drop repeats the first."


def ard_term(student_adv: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(soft || softmax(student_adv / T)) per sample, [B]; student logits and soft labels at T, [B,C]."""
    return temperature**2 * kl_divergence(soft, student_adv.float() / temperature)


@register_method(
    "ard",
    summary="ARD: distillation of a robust teacher's clean predictions into adversarial ones at temperature 30",
    citation="Goldblum et al., Adversarially Robust Distillation, arXiv 1905.09747",
    provenance="code",
)
class ARD(Method):
    """Attack the labels with the network in train mode, and distil the teacher at a high temperature."""

    needs = ("teacher",)
    reads = ("weight", "weight_adv", "margin", "step", "temperature_adv")
    attack_mode = "train"
    paper_recipe: ClassVar[Mapping[str, Any]] = OPTIMISER
    departures = (ONE_DROP, "The suite decides the batch size; the script uses 128, and 256 on CIFAR-100.")
    temperature: float = hyper(30.0, source=CODE, gt=0)
    teacher_share: float = hyper(1.0, source=f"{CODE}; the clean cross-entropy has the rest of 1", ge=0, le=1)
    kl_scale: float = hyper(
        0.1,
        source=f"{CODE}, element mean: 1 over the number of classes on CIFAR-10 and CIFAR-100",
        search=[0.1, 1.0],
        many_classes=0.01,
        gt=0,
    )

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Distillation on the adversarial input; the clean pass updates BatchNorm even at weight 0, as in the code."""
        y = batch.y
        soft = soften(self.teacher_logits(batch.x) / self.temperature, y, self.vector("temperature_adv"))
        adv = model(attacked.x_adv)
        with torch.set_grad_enabled(self.teacher_share < 1):
            clean = model(batch.x)
        term = self.kl_scale * ard_term(adv, soft, self.temperature)
        total = self.teacher_share * self.mean(term, y, "weight_adv")
        if self.teacher_share < 1:
            total = total + (1 - self.teacher_share) * self.mean(cross_entropy(clean, y), y)
        return StepOutput(total, logits_adv=adv, logits_clean=clean)
