"""WAT (Li and Liu, 2023): worst-class risk as a game, solved by no-regret weights over the classes and their mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairbench import (
    ClassPolicy,
    ClassRecord,
    Context,
    attacked_split,
    class_means,
    hyper,
    register_method,
    register_policy,
)

from .trades import trades_terms

__all__ = ["WATWeights", "class_weights"]

CITATION = "Li and Liu, WAT: Improve the Worst-class Robustness in Adversarial Training, AAAI 2023, arXiv 2302.04025"


def class_weights(cumulative_cost: Tensor, eta: float) -> Tensor:
    """Weights [C+1] that sum to C, from costs [C+1] summed over the epochs, the overall mean last: C softmax(eta c)."""
    return (len(cumulative_cost) - 1) * torch.softmax(eta * cumulative_cost, dim=0)


@register_policy("wat_weights", summary="No-regret weights from TRADES costs on the method split", citation=CITATION)
class WATWeights(ClassPolicy):
    """Exponential weights over C classes and the overall mean; the mean's weight is added to that of every class.

    The loss is divided by the batch size, not by the weights' sum. Its scale is therefore twice TRADES' in the first
    epoch and between 1 and 2C/(C+1) afterwards, as in the released method.
    """

    needs = ("method_split",)
    supplies = ("weight",)
    paper_recipe: ClassVar[Mapping[str, Any]] = {"epochs": 100, "milestones": (74 / 100, 89 / 100, 99 / 100)}
    departures = (
        "Costs are true class means; the script counts its last, partial batch as full, so that its costs, and eta in "
        "effect, are 2.3 % smaller with 3,000 images in batches of 128.",
        "The suite decides how many images of each class the costs use; the script holds out 300, and 30 on CIFAR-100, "
        "as this project's suite does.",
        "The costs keep a beta of their own (`cost_beta`) if tuning changes that of TRADES; the script has one beta.",
    )
    eta: float = hyper(0.1, source="code: boqili/WAT", search=[0.05, 0.1, 0.2], ge=0)
    cost_beta: float = hyper(6.0, source="code: boqili/WAT, the beta of its TRADES costs", ge=0)

    def setup(self, context: Context) -> None:
        """Start with all C + 1 weights at 1, which is twice the base's loss."""
        super().setup(context)
        self.cumulative_cost = torch.zeros(context.num_classes + 1, device=context.device)
        self.weight = 2 * self.vectors()["weight"]

    def end_epoch(self, record: ClassRecord) -> None:
        """Add the epoch's costs on the attacked method split, and set the weights by the cumulative costs."""
        seen = attacked_split(self.context, steps=self.context.recipe.attack_steps, objective="kl")
        natural, boundary = trades_terms(seen.clean, seen.adv, seen.y)
        cost = natural + self.cost_beta * boundary
        classes = class_means(cost, seen.y, self.context.num_classes)
        self.cumulative_cost = self.cumulative_cost + torch.cat([classes, cost.mean().view(1)])
        weights = class_weights(self.cumulative_cost, self.eta)
        self.weight = weights[:-1] + weights[-1]


register_method(
    "wat",
    base="trades",
    policies=["wat_weights"],
    options={"trades.pass_order": "clean-adv"},
    summary="WAT: TRADES with no-regret class weights against the worst class",
    citation=CITATION,
    provenance="code",
)
