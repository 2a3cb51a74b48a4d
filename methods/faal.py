"""FAAL (Zhang et al., 2024): the worst class distribution in a KL ball weighs every batch (min-max-max)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairbench import AttackOutput, Batch, StepOutput, class_sums, cross_entropy, hyper, register_method

from .sat import NORMALISED, SAT
from .trades import TRADES, PassOrder, trades_loss

__all__ = ["FAAL", "FAALTRADES", "class_distribution", "class_values"]

CITATION = "Zhang et al., Towards Fairness-Aware Adversarial Learning, CVPR 2024, arXiv 2402.17729"
RADIUS = "code: TrustAI/FAAL"
FINE_TUNING = {"epochs": 2 / 110, "lr": 0.01, "schedule": "multistep", "milestones": (0.5,), "gamma": 0.1}
OPTIMISER = {"lr": 0.01, "weight_decay": 5e-4, "nesterov": False, "epochs": 2, "milestones": (0.5,)}
DEPARTURES = (
    "Fine-tuning lasts 2/110 of the warm start, at least two epochs; the script always has two.",
    "The worst distribution is found by bisection; the script calls a solver of convex problems for the same optimum.",
    NORMALISED,
)


def class_distribution(value: Tensor, radius: float) -> Tensor:
    """Probabilities p [C] that maximise sum p*value over the simplex with KL(uniform || p) <= radius; value float [C].

    The optimum is p proportional to 1 / (nu - value) with nu > max(value), and the divergence falls as nu grows: nu is
    found by bisection, 60 halvings in float64, with no host sync. Equal values give the uniform distribution.
    """
    below = (value.max() - value).double()
    spread = below.max()
    below = below / torch.where(spread > 0, spread, 1.0)
    low, high = torch.full_like(spread, -40.0), torch.full_like(spread, 20.0)  # of log(nu - max), in units of spread
    for _ in range(60):
        middle = (low + high) / 2
        divergence = -_log_weights(below, middle).mean() - math.log(len(value))
        low, high = torch.where(divergence > radius, middle, low), torch.where(divergence > radius, high, middle)
    return _log_weights(below, high).exp().to(value.dtype)


def _log_weights(below: Tensor, log_gap: Tensor) -> Tensor:
    return torch.log_softmax(-torch.log(below + log_gap.exp()), dim=0)


def class_values(logits: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Count times mean margin of each class, [C]: summed best wrong minus true probability; 0 for an absent class."""
    probabilities = logits.detach().float().softmax(dim=1)
    true = probabilities.gather(1, y.unsqueeze(1))
    wrong = probabilities.scatter(1, y.unsqueeze(1), 0.0).amax(dim=1)
    return class_sums(wrong - true.squeeze(1), y, num_classes)


@register_method(
    "faal",
    summary="FAAL: SAT, fine-tuned with each batch's worst class distribution as weights",
    citation=CITATION,
    provenance="code",
)
class FAAL(SAT):
    """Fine-tune with weights C*p[y], where p is the worst class distribution for the batch.

    A clean pass in train mode, which the loss does not use, follows the adversarial one, as in the script.
    """

    needs = ("warm_start",)
    own_recipe: ClassVar[Mapping[str, Any]] = FINE_TUNING
    paper_recipe: ClassVar[Mapping[str, Any]] = OPTIMISER
    departures = DEPARTURES
    radius: float = hyper(0.5, source=RADIUS, search=[0.25, 0.5, 1.0], ge=0)

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Mean over the batch of C p[y] CE(adv)."""
        y, classes = batch.y, self.context.num_classes
        logits = self.passes(model, batch, attacked, "adv-clean", silent=("clean",))
        scale = classes * class_distribution(class_values(logits["adv"], y, classes), self.radius)[y]
        total = self.mean(scale * cross_entropy(logits["adv"], y), y, "weight_adv")
        return StepOutput(total, logits_adv=logits["adv"], logits_clean=logits["clean"])


@register_method(
    "faal_trades",
    summary="FAAL on TRADES, fine-tuned with each batch's worst class distribution as weights",
    citation=CITATION,
    provenance="code",
)
class FAALTRADES(TRADES):
    """TRADES, fine-tuned as FAAL is, with the same weights on both terms."""

    needs = ("warm_start",)
    own_recipe: ClassVar[Mapping[str, Any]] = FINE_TUNING
    paper_recipe: ClassVar[Mapping[str, Any]] = OPTIMISER
    departures = DEPARTURES
    radius: float = hyper(0.5, source=RADIUS, search=[0.25, 0.5, 1.0], ge=0)
    pass_order: PassOrder = hyper("adv-clean", source=RADIUS)

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Mean over the batch of C p[y] (CE(clean) + beta KL)."""
        y, classes = batch.y, self.context.num_classes
        logits = self.passes(model, batch, attacked, self.pass_order)
        scale = classes * class_distribution(class_values(logits["adv"], y, classes), self.radius)[y]
        total = trades_loss(
            logits["clean"],
            logits["adv"],
            y,
            self.beta * self.per_sample("beta", y),
            weight_clean=scale * self.sample_weights(y, "weight_clean"),
            weight_adv=scale * self.sample_weights(y, "weight_adv"),
        )
        return StepOutput(total, logits_adv=logits["adv"], logits_clean=logits["clean"])
