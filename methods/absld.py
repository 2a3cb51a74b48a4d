"""ABSLD (Zhao et al., 2024): anti-bias soft labels, with a teacher temperature for each class that follows its risk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fairbench import ClassPolicy, ClassRecord, Context, hyper, register_method, register_policy, soften

from .rslad import soft_label_loss

__all__ = ["ABSLDTemperatures", "absld_loss", "scaled_rate", "soften", "update_temperatures"]

CITATION = (
    "Zhao et al., Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation, "
    "NeurIPS 2024, arXiv 2312.05508"
)
absld_loss = soft_label_loss  # ABSLD is RSLAD with soft labels of two temperatures
MILESTONES = "code: zhaoshiji123/ABSLD, epochs 215, 260 and 285 of 300"


def update_temperatures(tau: Tensor, risk: Tensor, rate: float, low: float, high: float) -> Tensor:
    """Sharpen the labels of classes whose risk is above the mean and smooth the others'; tau and risk float [C].

    The class farthest from the mean moves by exactly `rate`; equal risks change nothing. Clipped to [low, high].
    """
    gap = risk - risk.mean()
    gap = torch.where((risk == risk[0]).all(), 0.0, gap)  # equal risks need not equal their rounded mean
    largest = gap.abs().max()
    return (tau - rate * gap / torch.where(largest > 0, largest, 1.0)).clamp(low, high)


def scaled_rate(epochs: int) -> float:
    """Largest move of a temperature per epoch in a run of `epochs`: min(0.5, 0.1 * 300 / epochs).

    A rule of this project. It keeps the share of the run in which temperatures reach their bounds, down to 60 epochs.
    Below, it is 0.5, the distance from the start to the floor: a larger rate would be clipped there, and classes would
    lose their proportions. At 300 epochs it is the authors' 0.1.
    """
    return min(0.5, 0.1 * 300 / epochs)


@register_policy(
    "absld_temperatures",
    summary="Class-wise teacher temperatures that equalise the student's class-wise cross-entropy risk",
    citation=CITATION,
)
class ABSLDTemperatures(ClassPolicy):
    """Two temperatures per class, for the adversarial and the clean branch, updated once per epoch.

    `temperature_rate` is the largest move of a temperature in an epoch; None takes it from the epochs of the run by
    `scaled_rate`. The rate drops with the learning rate, before the update of the epoch. The rate of each epoch is
    recorded in `history.csv`, as `temperature_rate_in_use`.
    """

    supplies: ClassVar[tuple[str, ...]] = ("temperature_adv", "temperature_clean")
    departures = (
        "Risks are class means of the cross-entropy; the script sums, which is the same for classes of equal size.",
        "In runs of other than 300 epochs the temperature rate is scaled (scaled_rate); 0.1 keeps the authors' rate.",
        "The CIFAR-10 script is the only one released: all other datasets use its constants.",
    )
    temperature_rate: float | None = hyper(
        None, source="none: min(0.5, 0.1 * 300 / epochs), which is the 0.1 of zhaoshiji123/ABSLD at 300 epochs", ge=0
    )
    temperature_low: float = hyper(0.5, source="code: zhaoshiji123/ABSLD", gt=0)
    temperature_high: float = hyper(5.0, source="code: zhaoshiji123/ABSLD", gt=0)
    rate_milestones: tuple[float, ...] = hyper((215 / 300, 260 / 300, 285 / 300), source=MILESTONES)
    rate_decay: float = hyper(0.1, source="code: zhaoshiji123/ABSLD", gt=0, le=1)
    shared_storage: bool = hyper(False, source="paper: two independent sets; the released script divides by both")

    def setup(self, context: Context) -> None:
        """Start with every temperature at 1, which is RSLAD."""
        super().setup(context)
        self.temperature_adv = torch.ones(context.num_classes, device=context.device)
        self.temperature_clean = torch.ones(context.num_classes, device=context.device)
        self.temperature_rate_in_use = torch.zeros((), dtype=torch.float64, device=context.device)

    def end_epoch(self, record: ClassRecord) -> None:
        """Move both sets by the class means of the cross-entropy with the true label."""
        done = (self.context.epoch + 1) / self.context.epochs
        rate = scaled_rate(self.context.epochs) if self.temperature_rate is None else self.temperature_rate
        rate = rate * self.rate_decay ** sum(done >= milestone for milestone in self.rate_milestones)
        self.temperature_rate_in_use = torch.full_like(self.temperature_rate_in_use, rate)
        low, high = self.temperature_low, self.temperature_high
        self.temperature_adv = update_temperatures(self.temperature_adv, record.mean("ce_adv"), rate, low, high)
        self.temperature_clean = update_temperatures(self.temperature_clean, record.mean("ce_clean"), rate, low, high)

    def vectors(self) -> Mapping[str, Tensor]:
        """The two sets, or in both places their product: the script divides one tensor in place by both."""
        if self.shared_storage:
            product = self.temperature_adv * self.temperature_clean
            return {"temperature_adv": product, "temperature_clean": product}
        return {"temperature_adv": self.temperature_adv, "temperature_clean": self.temperature_clean}


register_method(
    "absld",
    base="rslad",
    policies=["absld_temperatures"],
    summary="ABSLD: RSLAD with class-wise temperatures in two independent sets",
    citation=CITATION,
    provenance="paper",
)
register_method(
    "absld_released",
    base="rslad",
    policies=["absld_temperatures"],
    options={"absld_temperatures.shared_storage": True},
    summary="ABSLD as its published script computes it: both temperature sets divide one tensor",
    citation=CITATION,
    provenance="code",
)
