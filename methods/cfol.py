"""CFOL (Pethick et al., 2023): an online learner draws the class of each image and prefers classes with errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fairbench import (
    AttackOutput,
    Batch,
    ClassPolicy,
    Context,
    StepOutput,
    hyper,
    register_method,
    register_policy,
)

from .sat import NORMALISED

__all__ = ["CFOLSampling", "class_distribution", "update_scores"]

CITATION = "Pethick et al., Revisiting adversarial training for the worst-performing class, TMLR 2023, arXiv 2302.08872"
CODE = "code: LIONS-EPFL/class-focused-online-learning-code"


def update_scores(scores: Tensor, y: Tensor, error: Tensor, p: Tensor, eta: float) -> Tensor:
    """Scores [C] after a batch: every error on a sample of class c adds eta / p[c] to the class's score.

    The division makes the expected change independent of how often the class is drawn. `scores` float [C]; y int64 [B];
    `error` bool or 0/1 [B]; p float [C], the probabilities that the batch was drawn with.
    """
    errors = F.one_hot(y, len(scores)).to(scores.dtype).T @ error.to(scores.dtype)
    return scores + eta * errors / p


def class_distribution(scores: Tensor, gamma: float, base: Tensor) -> Tensor:
    """Probabilities p [C] = gamma base + (1 - gamma) softmax(scores); scores float [C], base a distribution [C]."""
    return gamma * base + (1 - gamma) * torch.softmax(scores, dim=0)


@register_policy(
    "cfol_sampling", summary="Draw the classes of each batch by exponential weights of their errors", citation=CITATION
)
class CFOLSampling(ClassPolicy):
    """Sample with replacement and prefer classes with adversarial errors; the loss remains unweighted.

    eta follows the authors' setting: the score of a class that is always wrong rises by `travel` over a run.
    """

    paper_recipe: ClassVar[Mapping[str, Any]] = {
        "lr": 0.1,
        "weight_decay": 5e-4,
        "nesterov": False,
        "epochs": 200,
        "milestones": (0.5, 0.75),
    }
    departures = (
        "The suite's attack takes the place of 7 steps of 0.00797 at epsilon 0.031, and its last iterate is used; the "
        "script takes the iterate after the one with the highest batch loss, normally the last.",
        "The suite's augmentation takes the place of crop, flip, colour jitter and rotation.",
        "eta keeps the authors' product with images and epochs; the script has 5e-6 whatever their number.",
        "Each batch is drawn from the scores of the batch before; the script's loading workers run about ten ahead.",
        "An image that an epoch draws twice is augmented twice and attacked from the same noise.",
        NORMALISED,
    )
    gamma: float = hyper(0.5, source=f"{CODE}, the share of the uniform distribution", gt=0, le=1)
    travel: float = hyper(
        40.0,
        source=f"{CODE}: eta 5e-6, times 40,000 images and 200 epochs; chosen here: kept for other lengths",
        search=[10.0, 40.0, 160.0],
        ge=0,
    )

    def setup(self, context: Context) -> None:
        """Start with equal scores: every class is drawn equally often."""
        super().setup(context)
        self.scores = torch.zeros(context.num_classes, device=context.device)
        self.eta = self.travel / (int(context.class_counts.sum()) * context.epochs)

    def sampling(self) -> Tensor:
        """The probabilities of the next batch."""
        return class_distribution(self.scores, self.gamma, torch.full_like(self.scores, 1 / len(self.scores)))

    def statistics(self, batch: Batch, attacked: AttackOutput, output: StepOutput) -> Mapping[str, Tensor]:
        """Update the scores with the step's logits, which precede the optimiser's step."""
        logits = output.logits_adv if output.logits_adv is not None else output.logits_clean
        if logits is not None:
            wrong = logits.detach().argmax(dim=1) != batch.y
            self.scores.copy_(update_scores(self.scores, batch.y, wrong, self.sampling(), self.eta))
        return {}


register_method(
    "cfol",
    base="sat",
    policies=["cfol_sampling"],
    summary="CFOL: SAT on images whose classes an online learner draws by their errors",
    citation=CITATION,
    provenance="code",
)
