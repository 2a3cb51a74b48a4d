"""MTARD (Zhao et al., 2022): a robust teacher for adversarial inputs, a natural one for clean inputs, in balance."""

from __future__ import annotations

from collections.abc import Callable

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

__all__ = ["MTARD", "move_share", "natural_logits"]

CODE = "code: zhaoshiji123/MTARD"
SCALE = f"{CODE}, element mean on CIFAR-10 and 10 times it on CIFAR-100"
MILESTONES = (215 / 300, 260 / 300, 285 / 300)


def move_share(
    share: Tensor,
    adv_loss: Tensor,
    natural_loss: Tensor,
    first_adv_loss: Tensor,
    first_natural_loss: Tensor,
    rate: float,
) -> Tensor:
    """The natural teacher's share, moved towards its part of both relative losses, loss / first loss; scalars.

    share - rate (share - relative natural loss / sum of both); equal relative losses move it towards 1/2.
    """
    adv, natural = adv_loss / first_adv_loss.clamp(min=1e-12), natural_loss / first_natural_loss.clamp(min=1e-12)
    return share - rate * (share - natural / (adv + natural).clamp(min=1e-12))


def natural_logits(context: Context, x: Tensor) -> Tensor:
    """Logits [B,C] of the naturally trained teacher, without gradient; raises InvalidInput for a run without one."""
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
    """Two teachers whose shares follow each branch's progress since the first step."""

    needs = ("teacher", "natural_teacher")
    paper_recipe = RSLAD.paper_recipe
    reads = RSLAD.reads
    attack_start = "gaussian"
    kl_scale: float = hyper(0.1, source=SCALE, search=[0.1, 1.0], gt=0)
    natural_share: float = hyper(0.5, source=f"{CODE}, the share at the start", ge=0, le=1)
    share_rate: float = hyper(0.025, source=CODE, ge=0, le=1)
    rate_milestones: tuple[float, ...] = hyper(MILESTONES, source=f"{CODE}, after epochs 215, 260 and 285 of 300")
    rate_decay: float = hyper(0.1, source=CODE, gt=0, le=1)
    one_teacher: bool = hyper(
        False, source="paper; Fair-MTARD's released script teaches both branches by the robust teacher at x_adv"
    )

    def setup(self, context: Context) -> None:
        """Start with equal shares; the losses of both branches are 0 until the first step."""
        super().setup(context)
        self.share = torch.tensor(self.natural_share, device=context.device)
        # Of shape [1,2]: on data of two classes, [2] would be taken for class-wise state.
        self.first, self.losses = torch.zeros(2, 1, 2, device=context.device)

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Each branch's KL to its own teacher, in shares that have been moved by these losses."""
        y = batch.y
        robust = self.teacher_logits(attacked.x_adv)
        natural = robust if self.one_teacher else natural_logits(self.context, batch.x)
        adv, clean = model(attacked.x_adv), model(batch.x)
        adv_terms = kl_divergence(soften(robust, y, self.vector("temperature_adv")), adv)
        clean_terms = kl_divergence(soften(natural, y, self.vector("temperature_clean")), clean)
        adv_loss, clean_loss = self.mean(adv_terms, y, "weight_adv"), self.mean(clean_terms, y, "weight_clean")
        self.losses.copy_(torch.stack([adv_loss, clean_loss]).detach().unsqueeze(0))
        share = self._moved()
        total = (1 - share) * adv_loss + share * clean_loss
        return StepOutput(self.kl_scale * total, logits_adv=adv, logits_clean=clean)

    def step(self, closure: Callable[[], StepOutput]) -> StepOutput:
        """Store the share that the step used; a policy may have computed the step's loss twice."""
        output = super().step(closure)
        self.share.copy_(self._moved())
        self.first.copy_(torch.where(self.first > 0, self.first, self.losses))
        return output

    def _moved(self) -> Tensor:
        """The share for the losses of this step; the first losses are their own reference."""
        first = torch.where(self.first > 0, self.first, self.losses)
        passed = sum(self.context.progress >= milestone for milestone in self.rate_milestones)
        (adv, natural), (first_adv, first_natural) = self.losses[0], first[0]
        return move_share(
            self.share, adv, natural, first_adv, first_natural, rate=self.share_rate * self.rate_decay**passed
        )
