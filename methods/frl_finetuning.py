"""The base methods of FRL (Xu et al., 2021): TRADES from a warm start, in the two forms of its scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairbench import AttackOutput, Batch, Context, StepOutput, hyper, register_method

from .frl import CODE, remargin_loss
from .trades import TRADES

__all__ = ["FineTunedTRADES", "RemarginedTRADES"]

CITATION = (
    "Xu et al., To be Robust or to be Fair: Towards Fairness in Adversarial Training, ICML 2021, arXiv 2010.06121"
)
OPTIMISER = {"lr": 0.001, "weight_decay": 5e-4, "nesterov": False}
DEPARTURES = (
    "Epochs are a share of the warm start's, which is taken to have 110; the scripts have 40, or 120 for remargin.",
    "The suite's warm start takes the place of the authors' hot start, of which only the weights are known.",
)


@register_method("trades_finetuned", summary="TRADES, fine-tuned as in FRL", citation=CITATION, provenance="code")
class FineTunedTRADES(TRADES):
    """TRADES from a warm start: FRL's 40 epochs are a share of the 110 that such a start usually has.

    All samples of a batch take the step of the batch's largest ball, a quarter of its radius.
    """

    needs = ("warm_start",)
    paper_recipe: ClassVar[Mapping[str, Any]] = {**OPTIMISER, "epochs": 40, "milestones": ()}
    departures = DEPARTURES
    own_recipe: ClassVar[Mapping[str, Any]] = {"epochs": 40 / 110, "lr": 0.001, "schedule": "constant"}
    beta: float = hyper(1.5, source=f"{CODE}; 1.0 for remargin", ge=0)

    def setup(self, context: Context) -> None:
        """Start with margins of 1."""
        super().setup(context)
        self.largest = torch.ones((), device=context.device)

    def augment(self, batch: Batch) -> Batch:
        """Record the largest margin of the whole batch; an attack on several ranks sees a part of it."""
        batch = super().augment(batch)
        self.largest.copy_(self.per_sample("margin", batch.y).max())
        return batch

    def per_sample(self, name: str, y: Tensor) -> Tensor:
        """Class vectors read at labels; steps grow with the batch's largest margin."""
        values = super().per_sample(name, y)
        return values * self.largest if name == "step" else values


@register_method(
    "trades_remargined", summary="TRADES, fine-tuned as in FRL's remargin", citation=CITATION, provenance="ablation"
)
class RemarginedTRADES(TRADES):
    """TRADES from a warm start with one divisor for both terms and a fixed step: 120 epochs to 110 of the start."""

    needs = ("warm_start",)
    reads = ("weight", "weight_clean", "weight_adv", "margin", "step")
    paper_recipe: ClassVar[Mapping[str, Any]] = {**OPTIMISER, "epochs": 120, "milestones": (40 / 120, 80 / 120)}
    departures = (
        *DEPARTURES,
        "The attack moves by at most steps times step, which is 2.5 epsilon in the script: with shorter attacks of a "
        "suite, larger margins have no effect.",
    )
    own_recipe: ClassVar[Mapping[str, Any]] = {
        "epochs": 120 / 110,
        "lr": 0.001,
        "schedule": "multistep",
        "milestones": (40 / 120, 80 / 120),
        "gamma": 0.1,
    }
    beta: float = hyper(1.0, source=f"{CODE}, remargin", ge=0)

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """The jointly normalised objective."""
        logits = self.passes(model, batch, attacked, self.pass_order)
        weight = self.vector("weight")
        scales = weight * self.vector("weight_clean"), weight * self.vector("weight_adv")
        total = remargin_loss(logits["clean"], logits["adv"], batch.y, *scales, beta=self.beta)
        return StepOutput(total, logits_adv=logits["adv"], logits_clean=logits["clean"])


BASE = "trades_finetuned"
WEIGHTS = "FRL, reweight: class-wise weights of the clean and the boundary term, fine-tuned"
MARGINS = "FRL, remargin: class-wise margins and weights of the clean term, fine-tuned"
BOTH = "FRL, reweight and remargin: class-wise weights and margins, fine-tuned"
REMARGIN = {
    "bound": 0.1,
    "margin_rate": 0.1,
    "margin_high": 2.5,
    "limit": 0.3,
    "reweight_boundary": False,
    "rate_halvings": (0.3333333333333333, 0.6666666666666666, 1.0),  # epochs 40 and 80 of 120, as literals
}
register_method(
    "frl_reweight", base=BASE, policies=["frl_weights"], summary=WEIGHTS, citation=CITATION, provenance="code"
)
register_method("frl", base=BASE, policies=["frl_margins"], summary=BOTH, citation=CITATION, provenance="code")
register_method(
    "frl_remargin",
    base="trades_remargined",
    policies=["frl_margins"],
    options=REMARGIN,
    summary=MARGINS,
    citation=CITATION,
    provenance="code",
)
