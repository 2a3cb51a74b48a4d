"""RSLAD (Zi et al., 2021): distil a robust teacher's soft labels into both branches."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fairbench import AttackOutput, Batch, Method, StepOutput, hyper, kl_divergence, register_method
from fairbench.kernels import tempered_kl
from fairbench.losses import SoftLabels

__all__ = ["RSLAD", "rslad_loss"]


def rslad_loss(student_adv: Tensor, student_clean: Tensor, teacher: Tensor) -> Tensor:
    """RSLAD objective, a scalar, from logits [B,C]: 5/6 adversarial + 1/6 clean KL to the teacher's probabilities.

    Scaled by 1/10 on every data set, which is the mean over classes on CIFAR-10 and the released factor on CIFAR-100.
    """
    target = torch.softmax(teacher.float(), dim=1)
    adversarial, clean = kl_divergence(target, student_adv), kl_divergence(target, student_clean)
    return 0.1 * (5 / 6 * adversarial.mean() + 1 / 6 * clean.mean())


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
    reads: ClassVar[tuple[str, ...]] = (
        "weight",
        "weight_adv",
        "weight_clean",
        "margin",
        "step",
        "temperature_adv",
        "temperature_clean",
    )
    attack_start: ClassVar[Literal["uniform", "gaussian"]] = "gaussian"
    kl_scale: float = hyper(
        0.1, source="code: zibojia/RSLAD, element mean on CIFAR-10 and 10 times it on CIFAR-100", gt=0
    )
    clean_share: float = hyper(1 / 6, source="code: zibojia/RSLAD", ge=0, le=1)

    def attack_loss(self, model: nn.Module, batch: Batch, memo: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """KL from the (tempered) soft label of the clean input."""
        memo["teacher"] = teacher = self.teacher_logits(batch.x)
        return SoftLabels(teacher, self.per_sample("temperature_adv", batch.y))

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Adversarial and clean KL to the soft labels, each at its own class-wise temperature."""
        teacher, y = attacked.memo["teacher"], batch.y
        adv, clean = model(attacked.x_adv), model(batch.x)
        adv_term = tempered_kl(teacher, adv, self.per_sample("temperature_adv", y))
        clean_term = tempered_kl(teacher, clean, self.per_sample("temperature_clean", y))
        total = (1 - self.clean_share) * self.mean(adv_term, y, "weight_adv")
        total = total + self.clean_share * self.mean(clean_term, y, "weight_clean")
        return StepOutput(self.kl_scale * total, logits_adv=adv, logits_clean=clean)
