"""RSLAD (Zi et al., 2021): distil a robust teacher's soft labels in the adversarial and the clean branch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairbench import AttackOutput, Batch, Method, SoftLabels, StepOutput, hyper, kl_divergence, register_method

__all__ = ["RSLAD", "rslad_loss", "soft_label_loss"]


def soft_label_loss(
    student_adv: Tensor,
    student_clean: Tensor,
    soft_adv: Tensor,
    soft_clean: Tensor,
    *,
    clean_share: float = 1 / 6,
    kl_scale: float = 0.1,
    weight_adv: float | Tensor = 1.0,
    weight_clean: float | Tensor = 1.0,
) -> Tensor:
    """Objective of RSLAD and ABSLD, a scalar, from student logits and soft labels [B,C]: 5/6 adversarial, 1/6 clean KL.

    `kl_scale` 1/10 is the mean over classes on CIFAR-10 and the released factor on CIFAR-100. The weights of the two
    terms are numbers, or float [B] with one value a sample.
    """
    adversarial = (weight_adv * kl_divergence(soft_adv, student_adv)).mean()
    clean = (weight_clean * kl_divergence(soft_clean, student_clean)).mean()
    return kl_scale * ((1 - clean_share) * adversarial + clean_share * clean)


def rslad_loss(
    student_adv: Tensor,
    student_clean: Tensor,
    teacher: Tensor,
    *,
    temperature_adv: Tensor | None = None,
    temperature_clean: Tensor | None = None,
    **scales: Any,
) -> Tensor:
    """RSLAD objective, a scalar, from logits [B,C]: 5/6 adversarial + 1/6 clean KL to the teacher's probabilities.

    Temperatures float [B] divide the teacher's logits, for class policies; `scales` are those of `soft_label_loss`.
    """
    soft = [
        torch.softmax(teacher.float() if tau is None else teacher.float() / tau.unsqueeze(1), dim=1)
        for tau in (temperature_adv, temperature_clean)
    ]
    return soft_label_loss(student_adv, student_clean, *soft, **scales)


@register_method(
    "rslad",
    summary="RSLAD: distillation of a robust teacher's soft labels in the attack and in both loss terms",
    citation=(
        "Zi et al., Revisiting Adversarial Robustness Distillation: Robust Soft Labels Make Student Better, "
        "ICCV 2021, arXiv 2108.07969"
    ),
    provenance="code",
)
class RSLAD(Method):
    """Replace every hard label, inside and outside the attack, by the teacher's prediction on the clean input."""

    needs: ClassVar[tuple[str, ...]] = ("teacher",)
    reads = (
        "weight",
        "weight_adv",
        "weight_clean",
        "margin",
        "step",
        "temperature_adv",
        "temperature_clean",
    )
    attack_start = "gaussian"
    paper_recipe: ClassVar[Mapping[str, Any]] = {
        "lr": 0.1,
        "weight_decay": 2e-4,
        "nesterov": False,
        "epochs": 300,
        "milestones": (215 / 300, 260 / 300, 285 / 300),
    }
    departures: ClassVar[tuple[str, ...]] = (
        "The teacher computes in float32; the CIFAR-100 script halves its weights and feeds it float32 images.",
    )
    kl_scale: float = hyper(
        0.1,
        source="code: zibojia/RSLAD, element mean on CIFAR-10 and 10 times it on CIFAR-100",
        search=[0.1, 1.0],
        gt=0,
    )
    clean_share: float = hyper(1 / 6, source="code: zibojia/RSLAD", ge=0, le=1)

    def attack_loss(self, model: nn.Module, batch: Batch, memo: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """KL from the soft label of the clean input, at the class's temperature."""
        memo["teacher"] = teacher = self.teacher_logits(batch.x)
        return SoftLabels(teacher, self.per_sample("temperature_adv", batch.y))

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Adversarial and clean KL to the soft labels, each at its own class-wise temperature."""
        y, adv, clean = batch.y, model(attacked.x_adv), model(batch.x)
        total = rslad_loss(
            adv,
            clean,
            attacked.memo["teacher"],
            temperature_adv=self.per_sample("temperature_adv", y),
            temperature_clean=self.per_sample("temperature_clean", y),
            clean_share=self.clean_share,
            kl_scale=self.kl_scale,
            weight_adv=self.sample_weights(y, "weight_adv"),
            weight_clean=self.sample_weights(y, "weight_clean"),
        )
        return StepOutput(total, logits_adv=adv, logits_clean=clean)
