"""CODAT (Zhi et al., 2025), reconstructed: the worst class distribution in a chi-square ball weighs every batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairbench import (
    AttackOutput,
    Batch,
    StepOutput,
    class_counts,
    class_means,
    cross_entropy,
    hyper,
    register_method,
)

from .sat import SAT

__all__ = ["CODAT", "class_distribution"]


def class_distribution(losses: Tensor, radius: float) -> Tensor:
    """Probabilities p [C] that maximise sum p*losses over the simplex with C sum (p - 1/C)^2 <= radius.

    losses float [C]. The closed form uses as many classes as possible, those with the largest losses first, such that
    their optimum without the bounds p >= 0 is not negative. If no p is 0, p = (1 + sqrt(radius) (l - mean) / std) / C
    with the population's std, and the value is mean + sqrt(radius) std. Equal losses give the uniform distribution, a
    radius of C - 1 the worst class.
    """
    return _worst(losses, torch.ones_like(losses, dtype=torch.bool), radius)


def _worst(losses: Tensor, present: Tensor, radius: float) -> Tensor:
    """`class_distribution` over the classes that are present, bool [C], and 0 elsewhere, without a host sync."""
    count, classes = present.sum().double(), len(losses)
    values, order = losses.double().masked_fill(~present, -torch.inf).sort(descending=True)
    below = (values - values[0]).masked_fill(values.isneginf(), 0.0)  # relative to the largest: exactly 0 for ties
    size = torch.arange(1, classes + 1, device=losses.device).double().unsqueeze(1)
    within = torch.ones(classes, classes, device=losses.device, dtype=torch.float64).tril()  # row m: the m largest
    apart = (below - within @ below.unsqueeze(1) / size) * within
    variance = apart.square().sum(dim=1, keepdim=True) / size
    budget = (1 + radius) / count - 1 / size
    slope = (budget.clamp(min=0) / (size * variance.where(variance > 0, 1.0))).sqrt()
    optimum = (1 / size + slope * apart) * within
    smallest = optimum.diagonal()
    accepted = (size.squeeze(1) <= count) & (budget.squeeze(1) > -1e-12) & (smallest > -1e-12)
    largest = (accepted * size.squeeze(1)).argmax().unsqueeze(0)
    best = optimum.index_select(0, largest).squeeze(0).clamp(min=0)
    return torch.zeros_like(best).scatter(0, order, best / best.sum()).to(losses.dtype)


@register_method(
    "codat",
    summary="CODAT: SAT weighted by each batch's worst class distribution in a chi-square ball",
    citation=(
        "Zhi et al., Towards Fair Class-wise Robustness: Class Optimal Distribution Adversarial Training, "
        "arXiv 2501.04527"
    ),
    provenance="reconstruction",
)
class CODAT(SAT):
    """Distributionally robust optimisation over classes: minimise the worst mean of the batch's class losses.

    While no weight is 0, the gradient is that of the mean plus sqrt(radius) standard deviations of the class losses.
    """

    paper_recipe: ClassVar[Mapping[str, Any]] = {}
    departures = (
        "The abstract alone could be read: SAT as the base, the chi-square ball's form and its radius are chosen here.",
    )
    radius: float = hyper(0.5, source="chosen here: the paper's radius could not be read", search=[0.1, 0.5, 1.0], ge=0)

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Sum over the classes in the batch of p[c] times the mean CE(adv) of class c."""
        logits = model(attacked.x_adv)
        values, count = cross_entropy(logits, batch.y), class_counts(batch.y, self.context.num_classes)
        means = class_means(values.detach(), batch.y, self.context.num_classes)
        scale = _worst(means, count > 0, self.radius) * len(batch.y) / count.clamp(min=1)
        return StepOutput(self.mean(scale[batch.y] * values, batch.y, "weight_adv"), logits_adv=logits)
