"""AdaAD (Huang et al., 2023): find the input on which student and teacher disagree most, and distil there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fairbench import (
    AttackOutput,
    Batch,
    InvalidInput,
    Method,
    StepOutput,
    hyper,
    kl_divergence,
    register_method,
    soften,
)

from .ard import ard_term
from .iad import introspection, trust_in
from .sat import SAT

__all__ = ["AdaAD", "AdaIAD"]

CITATION = (
    "Huang et al., Boosting Accuracy and Robustness of Student Models via Adaptive Adversarial Distillation, "
    "CVPR 2023, pp. 24668-24677"
)
CODE = "code: boyellow/adaad"
SCALE = f"{CODE}, element mean on CIFAR-10, batch mean on CIFAR-100"


class _Pair(nn.Module):
    """A student that stores its teacher's logits for the same input, so that gradients flow through both networks."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B,C] of the student."""
        self.teacher_logits: Tensor = self.teacher(x)
        return self.student(x)  # type: ignore[no-any-return]


class _Disagreement(Method):
    """The teacher takes part in the attack, which costs one more backward pass per step."""

    needs = ("teacher",)
    reads = ("weight", "weight_adv", "margin", "step", "temperature_adv")
    attack_start = "gaussian"
    paper_recipe = SAT.paper_recipe  # 200 epochs, drops after the half and three quarters, weight decay 5e-4
    departures = (
        "The suite decides epsilon and teacher; the script's default is 16/255 in steps of 4/255 with LTD teachers.",
    )

    def attack(self, model: nn.Module, batch: Batch) -> AttackOutput:
        """Attack student and teacher together; raises InvalidInput when the run has no teacher."""
        if self.context.teacher is None:
            raise InvalidInput(f"method {type(self).__name__} needs a teacher and the suite names none")
        return super().attack(_Pair(model, self.context.teacher), batch)

    def attack_loss(self, model: nn.Module, batch: Batch, memo: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """KL from the teacher's prediction on the attacked input itself, at the class's temperature."""
        tau = self.vector("temperature_adv")
        return lambda logits: kl_divergence(soften(model.teacher_logits, batch.y, tau), logits)  # type: ignore[arg-type]


@register_method(
    "adaad",
    summary="AdaAD: the attack looks for the largest disagreement with a robust teacher, which is distilled there",
    citation=CITATION,
    provenance="code",
)
class AdaAD(_Disagreement):
    """Distil only where student and teacher disagree most."""

    adv_share: float = hyper(1.0, source=f"{CODE}; the clean term has the rest of 1", ge=0, le=1)
    kl_scale: float = hyper(0.1, source=SCALE, search=[0.1, 1.0], many_classes=1.0, gt=0)

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """KL to the teacher on the adversarial input, and on the clean one if its share is not 0."""
        y, adv, clean = batch.y, model(attacked.x_adv), None
        soft = soften(self.teacher_logits(attacked.x_adv), y, self.vector("temperature_adv"))
        total = self.adv_share * self.mean(kl_divergence(soft, adv), y, "weight_adv")
        if self.adv_share < 1:
            clean = model(batch.x)
            target = torch.softmax(self.teacher_logits(batch.x), dim=1)
            total = total + (1 - self.adv_share) * self.mean(kl_divergence(target, clean), y)
        return StepOutput(self.kl_scale * total, logits_adv=adv, logits_clean=clean)


@register_method(
    "adaiad",
    summary="AdaIAD: AdaAD's attack with IAD's trust in the teacher, at temperature 30",
    citation=CITATION,
    provenance="code",
)
class AdaIAD(_Disagreement):
    """Distil at a high temperature; after the first epochs also from the student itself where the teacher fails."""

    temperature: float = hyper(30.0, source=CODE, search=[5.0, 30.0], gt=0)
    begin: float = hyper(0.3, source=f"{CODE}, epoch 60 of 200", ge=0, le=1)
    trust_power: float = hyper(0.1, source=CODE, ge=0)

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """The teacher's term at full weight, and the student's own term weighted by 1 minus the trust."""
        y, adv, clean = batch.y, model(attacked.x_adv), None
        teacher = self.teacher_logits(attacked.x_adv)
        soft = soften(teacher / self.temperature, y, self.vector("temperature_adv"))
        terms = ard_term(adv, soft, self.temperature)
        if self.context.progress >= self.begin:
            clean = model(batch.x)
            terms = terms + (1 - trust_in(teacher, y, self.trust_power)) * introspection(clean, adv)
        return StepOutput(self.mean(terms, y, "weight_adv"), logits_adv=adv, logits_clean=clean)
