"""FAWA, from CFA (Wei et al., 2023): an average over the weights of the epochs whose worst classes are robust."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from fairbench import ClassPolicy, ClassRecord, Context, attacked_split, class_means, hyper, register_policy

__all__ = ["FAWA"]

CITATION = "Wei et al., CFA: Class-wise Calibrated Fair Adversarial Training, CVPR 2023, arXiv 2303.14460"


@register_policy("fawa", summary="Average the weights of epochs whose worst class is robust enough", citation=CITATION)
class FAWA(ClassPolicy):
    """Fairness-aware weight averaging over whole epochs, BatchNorm statistics included."""

    needs = ("method_split",)
    departures = (
        "The threshold applies to the mean of the worst tenth of the classes; the script takes the worst class.",
        "The suite decides how many images FAWA looks at; the script holds out 100 a class, 25 on CIFAR-100, where "
        "this project's suite holds out the 30 that WAT's script takes.",
        "In CFA the paper's rate, threshold and beginning of the averaging are used, and the script's defaults differ. "
        "FAIR-TAT's script has the same rate and threshold and averages from the first epoch, as here.",
        "Where no epoch reaches the threshold, the trained weights are exported, and averaging has no effect; "
        "`fair_epochs` in history.csv counts the epochs that reach it.",
        "The scripts select among FAWA, an average over all epochs and the raw weights; here FAWA alone is exported.",
    )
    decay: float = hyper(0.85, source="paper; 0.88 in the code", ge=0, lt=1)
    threshold: float = hyper(0.2, source="paper; 0.24 in the code; here on the worst tenth of the classes", ge=0, le=1)
    averaging_begin: float = hyper(50 / 200, source="paper, epoch 50 of 200; 0 in the code", ge=0, le=1)
    split_steps: int = hyper(10, source="code: PKU-ML/CFA, PGD-10", ge=1)

    def setup(self, context: Context) -> None:
        """Create the averaged model, whose weights the first fair epoch sets."""
        super().setup(context)
        self.average: nn.Module = deepcopy(context.model)
        self.fair_epochs = torch.zeros((), dtype=torch.int64, device=context.device)

    @torch.no_grad()
    def end_epoch(self, record: ClassRecord) -> None:
        """Add the epoch's weights to the average if the worst classes reach the threshold on the method split."""
        if self.context.progress < self.averaging_begin:
            return
        seen, classes = attacked_split(self.context, steps=self.split_steps), self.context.num_classes
        robust = class_means((seen.adv.argmax(dim=1) == seen.y).float(), seen.y, classes)
        if robust.sort().values[: max(1, round(classes / 10))].mean() < self.threshold:
            return
        rate = 1 - self.decay if self.fair_epochs else 1.0
        for mean, now in zip(self.average.state_dict().values(), self.context.model.state_dict().values(), strict=True):
            mean.copy_(torch.lerp(mean, now, rate) if mean.is_floating_point() else now)
        self.fair_epochs += 1

    def export_model(self, model: nn.Module) -> nn.Module:
        """Return the average, once an epoch was fair."""
        return self.average if self.fair_epochs else model
