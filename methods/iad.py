"""IAD (Zhu et al., 2022): distil the teacher where it recognises the adversarial input, else the student itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from fairbench import (
    AttackOutput,
    Batch,
    InvalidInput,
    Method,
    StepOutput,
    cross_entropy,
    hyper,
    kl_divergence,
    register_method,
    soften,
)

from .ard import ONE_DROP, OPTIMISER
from .mtard import natural_logits

__all__ = ["IAD", "IAD2", "introspection", "trust_in"]

CITATION = "Zhu et al., Reliable Adversarial Distillation with Unreliable Teachers, ICLR 2022, arXiv 2106.04928"
CODE = "code: ZFancy/IAD"
CleanOrder = Literal["adv-clean", "adv-clean-adv", "adv-adv-clean", "adv-adv-clean-clean"]
Order = Literal["adv", CleanOrder]


def trust_in(teacher_adv: Tensor, y: Tensor, power: float) -> Tensor:
    """The teacher's probability of the true class on the adversarial input, to the given power; logits [B,C] to [B]."""
    return torch.softmax(teacher_adv.float(), dim=1).gather(1, y.unsqueeze(1)).squeeze(1) ** power


def introspection(clean: Tensor, adv: Tensor) -> Tensor:
    """KL(p_S(x) || p_S(x_adv)) per sample, [B]; as in the script, gradients flow through both predictions."""
    return kl_divergence(torch.softmax(clean.float(), dim=1), adv)


@register_method(
    "iad",
    summary="IAD-I: distillation from a robust teacher, and from the student itself where the teacher fails",
    citation=CITATION,
    provenance="code",
)
class IAD(Method):
    """Distil the teacher alone at first; later add the student's own clean prediction as a second target.

    As in the scripts, a step forwards images in train mode that its loss does not use: `pass_order` names the passes of
    the first epochs, `late_order` those of the others.
    """

    needs: ClassVar[tuple[str, ...]] = ("teacher",)
    reads = ("weight", "weight_adv", "margin", "step", "temperature_adv")
    attack_mode = "train"
    paper_recipe: ClassVar[Mapping[str, Any]] = OPTIMISER
    departures = (ONE_DROP,)
    begin: float = hyper(0.3, source=f"{CODE}, epoch 60 of 200", ge=0, le=1)
    trust_power: float = hyper(0.1, source=CODE, search=[0.1, 1.0], ge=0)
    pass_order: Order = hyper("adv-adv-clean", source=f"{CODE}; adv-clean-adv in NISP-official/Fair-ARD")
    late_order: CleanOrder = hyper("adv-adv-clean-clean", source=f"{CODE}; adv-clean-adv in NISP-official/Fair-ARD")

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """The teacher's term at full weight, and the student's own term weighted by 1 minus the trust."""
        y, begun, logits = batch.y, self.context.progress >= self.begin, self.student(model, batch, attacked)
        terms = kl_divergence(soften(self.teacher_logits(batch.x), y, self.vector("temperature_adv")), logits["adv"])
        if begun:
            trust = trust_in(self.teacher_logits(attacked.x_adv), y, self.trust_power)
            terms = terms + (1 - trust) * introspection(logits["clean"], logits["adv"])
        total = self.mean(terms, y, "weight_adv")
        return StepOutput(total, logits_adv=logits["adv"], logits_clean=logits.get("clean"))

    def student(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> dict[str, Tensor]:
        """Logits [B,C] of the present passes; clean ones carry gradients once the loss uses them."""
        if self.context.progress < self.begin:
            return self.passes(model, batch, attacked, self.pass_order, silent=("clean",))
        return self.passes(model, batch, attacked, self.late_order)


@register_method(
    "iad2",
    summary="IAD-II: cross-entropy, a robust teacher or the student itself by trust, and a natural teacher",
    citation=CITATION,
    provenance="code",
)
class IAD2(IAD):
    """Both teachers see the adversarial input, and the trust scales the robust teacher's term too."""

    needs = ("teacher", "natural_teacher")
    begin: float = hyper(0.2, source=f"{CODE}, epoch 40 of 200; until then the trust is 1, as in IAD-I", ge=0, le=1)
    robust_share: float = hyper(0.5, source=CODE, ge=0, le=1)
    natural_share: float = hyper(0.25, source=CODE, ge=0, le=1)
    pass_order: Order = hyper("adv", source=CODE)
    late_order: CleanOrder = hyper("adv-clean", source=CODE)

    @classmethod
    def check(cls, values: Mapping[str, Any], num_classes: int | None = None) -> None:
        """Raise InvalidInput unless the shares leave a share, or nothing, for the cross-entropy."""
        if values["robust_share"] + values["natural_share"] > 1:
            raise InvalidInput(f"shares {values['robust_share']} and {values['natural_share']} exceed 1 together")

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Three targets for the adversarial prediction, in fixed shares."""
        y, logits = batch.y, self.student(model, batch, attacked)
        adv = logits["adv"]
        robust = self.teacher_logits(attacked.x_adv)
        natural = torch.softmax(natural_logits(self.context, attacked.x_adv), dim=1)
        guided = kl_divergence(soften(robust, y, self.vector("temperature_adv")), adv)
        if self.context.progress >= self.begin:
            trust = trust_in(robust, y, self.trust_power)
            guided = trust * guided + (1 - trust) * introspection(logits["clean"], adv)
        terms = (1 - self.robust_share - self.natural_share) * cross_entropy(adv, y)
        terms = terms + self.robust_share * guided + self.natural_share * kl_divergence(natural, adv)
        return StepOutput(self.mean(terms, y, "weight_adv"), logits_adv=adv, logits_clean=logits.get("clean"))
