"""WAT (Li and Liu, 2023): worst-class risk as a game, solved by no-regret weights over the classes and their mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fairbench import ClassPolicy, ClassRecord, Context, hyper, register_method, register_policy
from fairbench.method.held_out import attacked_split, class_means

from .trades import trades_terms

__all__ = ["WATWeights", "class_weights"]

CITATION = "Li and Liu, WAT: Improve the Worst-class Robustness in Adversarial Training, AAAI 2023, arXiv 2302.04025"


def class_weights(cumulative_cost: Tensor, eta: float) -> Tensor:
    """Weights [C+1] that sum to C, from costs [C+1] summed over the epochs, the overall mean last: C softmax(eta c)."""
    return (len(cumulative_cost) - 1) * torch.softmax(eta * cumulative_cost, dim=0)


@register_policy("wat_weights", summary="No-regret weights from TRADES costs on the method split", citation=CITATION)
class WATWeights(ClassPolicy):
    """Exponential weights over C classes and the overall mean; the mean's weight is added to that of every class."""

    needs: ClassVar[tuple[str, ...]] = ("method_split",)
    supplies: ClassVar[tuple[str, ...]] = ("weight",)
    eta: float = hyper(0.1, source="code: boqili/WAT", ge=0)
    cost_beta: float = hyper(6.0, source="code: boqili/WAT, the beta of its TRADES costs", ge=0)

    def setup(self, context: Context) -> None:
        """Start with all C + 1 weights at 1, which is twice the base's loss."""
        super().setup(context)
        self.cumulative_cost = torch.zeros(context.num_classes + 1, device=context.device)
        self.weight = torch.full((context.num_classes,), 2.0, device=context.device)

    def end_epoch(self, record: ClassRecord) -> None:
        """Add the epoch's costs on the attacked method split, and weigh by what has been summed so far."""
        seen = attacked_split(self.context, steps=self.context.recipe.attack_steps, objective="kl")
        natural, boundary = trades_terms(seen.clean, seen.adv, seen.y)
        cost = natural + self.cost_beta * boundary
        classes = class_means(cost, seen.y, self.context.num_classes)
        self.cumulative_cost = self.cumulative_cost + torch.cat([classes, cost.mean().view(1)])
        weights = class_weights(self.cumulative_cost, self.eta)
        self.weight = weights[:-1] + weights[-1]

    def vectors(self) -> Mapping[str, Tensor]:
        """Each class's weight and that of the mean, in one."""
        return {"weight": self.weight}


register_method(
    "wat",
    base="trades",
    policies=["wat_weights"],
    summary="WAT: TRADES with no-regret class weights against the worst class",
    citation=CITATION,
    provenance="code",
)
