"""Label smoothing without a teacher: ABSLD's temperatures act on the label instead of a prediction."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fairbench import Batch, SoftLabels, hyper, register_method

from .rslad import RSLAD

__all__ = ["LabelSmoothing", "smooth_logits"]

CITATION = (
    "After Zhao et al., Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation, "
    "NeurIPS 2024, arXiv 2312.05508, Fig. 2 (smoothness per class without a teacher)"
)
CHOSEN = "chosen here"


def smooth_logits(y: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Logits [B,C] of labels y int64 [B] whose softmax is 1 - smoothing at the label and equal at the other classes.

    The label keeps at least 1/C, so that no other class exceeds it. A temperature above 1 makes them smoother and one
    below 1 sharper.
    """
    odds = math.log((1 - smoothing) * (num_classes - 1) / smoothing)
    return torch.zeros(len(y), num_classes, device=y.device).scatter(1, y.unsqueeze(1), max(odds, 0.0))


@register_method(
    "label_smoothing",
    summary="RSLAD's objective on equally smoothed labels in place of a teacher's predictions",
    citation=CITATION,
    provenance="ablation",
)
class LabelSmoothing(RSLAD):
    """The label replaces the teacher: class-wise temperatures become class-wise smoothing."""

    needs = ()
    departures = ("A variant of this project; the paper shows the idea in a figure and gives no settings.",)
    kl_scale: float = hyper(1.0, source=f"{CHOSEN}, the scale of cross-entropy", gt=0)
    smoothing: float = hyper(0.1, source=CHOSEN, search=[0.05, 0.1, 0.3], gt=0, lt=1)

    def attack_loss(self, model: nn.Module, batch: Batch, memo: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """KL from the smoothed label."""
        memo["teacher"] = smooth_logits(batch.y, self.context.num_classes, self.smoothing)
        return SoftLabels(memo["teacher"], self.per_sample("temperature_adv", batch.y))


register_method(
    "class_label_smoothing",
    base="label_smoothing",
    policies=["absld_temperatures"],
    summary="Label smoothing by class: ABSLD's adapted temperatures without a teacher",
    citation=CITATION,
    provenance="ablation",
)
