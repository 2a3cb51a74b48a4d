"""MTARD (Zhao et al., 2022): a robust teacher for adversarial inputs, a natural one for clean inputs, in balance."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fairbench import (
    AttackOutput,
    Batch,
    Context,
    InvalidInput,
    Method,
    StepOutput,
    hyper,
    kl_divergence,
    register_method,
    soften,
)

from .rslad import RSLAD

__all__ = ["MTARD", "natural_logits", "update_share"]

CODE = "code: zhaoshiji123/MTARD"
SCALE = f"{CODE}, element mean on CIFAR-10 and 10 times it on CIFAR-100"


def update_share(share: Tensor, relative_adv: Tensor, relative_clean: Tensor, rate: float) -> Tensor:
    """Move the natural teacher's share towards the clean part of both relative losses, loss / first loss; scalars."""
    return share - rate * (share - relative_clean / (relative_adv + relative_clean).clamp(min=1e-12))


def natural_logits(context: Context, x: Tensor) -> Tensor:
    """Logits [B,C] of the naturally trained teacher, without gradient; raises InvalidInput when the run has none."""
    if context.natural_teacher is None:
        raise InvalidInput("the method needs a natural teacher and the suite names none (natural_teacher)")
    with torch.no_grad():
        return context.natural_teacher(x).float()  # type: ignore[no-any-return]


@register_method(
    "mtard",
    summary="MTARD: robust teacher on adversarial and natural teacher on clean inputs, shares balanced every step",
    citation=("Zhao et al., Enhanced Accuracy and Robustness via Multi-Teacher Adversarial Distillation, ECCV 2022"),
    provenance="code",
)
class MTARD(Method):
    """Two teachers whose shares follow how far each branch's loss has come since the first step."""

    needs: ClassVar[tuple[str, ...]] = ("teacher", "natural_teacher")
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
    paper_recipe = RSLAD.paper_recipe
    kl_scale: float = hyper(0.1, source=SCALE, search=[0.1, 1.0], gt=0)
    natural_share: float = hyper(0.5, source=f"{CODE}, the share at the start", ge=0, le=1)
    share_rate: float = hyper(0.025, source=CODE, ge=0, le=1)
    rate_milestones: tuple[float, ...] = hyper(
        (215 / 300, 260 / 300, 285 / 300), source=f"{CODE}, epochs 215, 260 and 285 of 300"
    )
    rate_decay: float = hyper(0.1, source=CODE, gt=0, le=1)
    one_teacher: bool = hyper(
        False, source="paper; Fair-MTARD's released script teaches both branches by the robust teacher at x_adv"
    )

    def setup(self, context: Context) -> None:
        """Equal shares; the first losses are stored at the first step, and 0 until then."""
        super().setup(context)
        self.share = torch.tensor(self.natural_share, device=context.device)
        self.first_adv, self.first_clean, self.now_adv, self.now_clean = torch.zeros(4, device=context.device)

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Each branch's KL to its own teacher, in the shares in force."""
        y = batch.y
        robust = self.teacher_logits(attacked.x_adv)
        natural = robust if self.one_teacher else natural_logits(self.context, batch.x)
        adv, clean = model(attacked.x_adv), model(batch.x)
        adv_terms = kl_divergence(soften(robust, y, self.vector("temperature_adv")), adv)
        clean_terms = kl_divergence(soften(natural, y, self.vector("temperature_clean")), clean)
        adv_loss, clean_loss = self.mean(adv_terms, y, "weight_adv"), self.mean(clean_terms, y, "weight_clean")
        self.now_adv, self.now_clean = adv_loss.detach(), clean_loss.detach()
        total = (1 - self.share) * adv_loss + self.share * clean_loss
        return StepOutput(self.kl_scale * total, logits_adv=adv, logits_clean=clean)

    def step(self, closure: Callable[[], StepOutput]) -> StepOutput:
        """After the optimiser's step, shift the share towards the branch that has gained less."""
        output = super().step(closure)
        self.first_adv = torch.where(self.first_adv > 0, self.first_adv, self.now_adv)
        self.first_clean = torch.where(self.first_clean > 0, self.first_clean, self.now_clean)
        passed = sum(self.context.progress >= milestone for milestone in self.rate_milestones)
        relative_adv = self.now_adv / self.first_adv.clamp(min=1e-12)
        relative_clean = self.now_clean / self.first_clean.clamp(min=1e-12)
        rate = self.share_rate * self.rate_decay**passed
        self.share = update_share(self.share, relative_adv, relative_clean, rate)
        return output
