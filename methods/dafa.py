"""DAFA (Lee et al., 2024): hard classes take weight and margin from the easier classes that they are mistaken for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairbench import (
    AttackOutput,
    Batch,
    ClassPolicy,
    ClassRecord,
    Context,
    StepOutput,
    hyper,
    register_method,
    register_policy,
)

__all__ = ["DAFAMargins", "DAFAWeights", "Distances", "class_weights"]

CITATION = "Lee et al., DAFA: Distance-Aware Fair Adversarial Training, ICLR 2024, arXiv 2401.12532"


def class_weights(confusion: Tensor, lam: float) -> Tensor:
    """W [C] from mean class probabilities [C,C], row i those of class i; class i gains weight that an easier j loses.

    The gain for p_i(i) < p_j(j) is lam p_i(j) p_j(j); ties change nothing, and the sum is C (the paper's algorithm).
    """
    own = confusion.diagonal()
    gain = lam * confusion * own * (own.unsqueeze(1) < own)
    return 1 + gain.sum(dim=1) - gain.sum(dim=0)


class Distances(ClassPolicy):
    """Class weights that are computed once, after a warm-up, from predictions on the training attack's images."""

    paper_recipe: ClassVar[Mapping[str, Any]] = {
        "weight_decay": 5e-4,
        "nesterov": True,
        "epochs": 110,
        "milestones": (99 / 110, 104 / 110),
    }
    departures = (
        "Ties between classes change no weight, as in the paper's algorithm; the script subtracts on both sides.",
        "Weights are kept above `lowest`; the script leaves a weight that falls below 0 as it is.",
        "The warm-up is rounded to whole epochs: 38 of 60 where 70/110 of them are 38.2.",
    )
    lam: float = hyper(
        1.0,
        source="code: rucy74/DAFA, CIFAR-10; 1.5 on CIFAR-100 and STL-10",
        search=[0.5, 1.0, 1.5],
        many_classes=1.5,
        ge=0,
    )
    warm_up: float = hyper(70 / 110, source="code: rucy74/DAFA, epoch 70 of 110", ge=0, le=1)
    lowest: float = hyper(0.05, source="chosen here: W may fall below 0, and a margin may not", gt=0, le=1)

    def setup(self, context: Context) -> None:
        """Start with equal weights; at least one epoch remains after the warm-up if the run has two."""
        super().setup(context)
        self.class_weight = torch.ones(context.num_classes, device=context.device)
        self.warm_up_epochs = min(max(1, round(self.warm_up * context.epochs)), context.epochs - 1)

    def statistics(self, batch: Batch, attacked: AttackOutput, output: StepOutput) -> Mapping[str, Tensor]:
        """Class probabilities on the adversarial images in the warm-up's last epoch."""
        if self.context.epoch + 1 != self.warm_up_epochs or output.logits_adv is None:
            return {}
        return {"probability_adv": output.logits_adv.detach().float().softmax(dim=1)}

    def end_epoch(self, record: ClassRecord) -> None:
        """Compute the weights for all epochs after the warm-up."""
        if self.context.epoch + 1 == self.warm_up_epochs:
            self.class_weight = class_weights(record.mean("probability_adv"), self.lam).clamp(min=self.lowest)

    def vectors(self) -> Mapping[str, Tensor]:
        """The weights, under every name that the policy supplies."""
        return dict.fromkeys(self.supplies, self.class_weight)


@register_policy("dafa_weights", summary="Distance-aware weights of the clean term", citation=CITATION)
class DAFAWeights(Distances):
    """A hard class's clean cross-entropy weighs more; the regulariser is not weighted."""

    supplies = ("weight_clean",)


@register_policy("dafa_margins", summary="Distance-aware margins and attack steps", citation=CITATION)
class DAFAMargins(Distances):
    """A hard class is attacked in a larger ball, with larger steps."""

    supplies = ("margin", "step")


register_method(
    "dafa",
    base="trades",
    policies=["dafa_weights", "dafa_margins"],
    options={"trades.pass_order": "adv-clean"},
    summary="DAFA: TRADES with distance-aware weights and margins after a warm-up",
    citation=CITATION,
    provenance="code",
)
