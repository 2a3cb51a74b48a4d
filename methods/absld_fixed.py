"""Ablations of ABSLD, designed by this project: class-wise temperatures that do not adapt to the risk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fairbench import ClassPolicy, ClassRecord, Context, ImageRNG, InvalidInput, hyper, register_method, register_policy

from .absld import update_temperatures

__all__ = ["ManualTemperatures", "RandomTemperatures", "UniformTemperature", "log_uniform"]

CITATION = (
    "Ablation of Zhao et al., Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation, "
    "NeurIPS 2024, arXiv 2312.05508"
)
OURS = "ablation"
BOUNDS = "the bounds of zhaoshiji123/ABSLD"
STREAM = 1 << 29  # stream of the random numbers; those of the epochs count up from 1


def log_uniform(draw: Tensor, low: float, high: float) -> Tensor:
    """Temperatures between low and high, evenly spread on a log scale, from draws in [0,1)."""
    return low * (high / low) ** draw


class _Fixed(ClassPolicy):
    """Temperatures of both branches, 1 until a subclass changes them."""

    supplies = ("temperature_adv", "temperature_clean")
    temperature_adv: Tensor
    temperature_clean: Tensor


@register_policy("uniform_temperature", summary="One temperature for all classes, which never moves", citation=CITATION)
class UniformTemperature(_Fixed):
    """Smoother soft labels for all classes alike."""

    temperature: float = hyper(1.58, source=f"chosen here: the geometric mean of {BOUNDS}", gt=0)

    def setup(self, context: Context) -> None:
        """Set all temperatures."""
        super().setup(context)
        self.temperature_adv = self.temperature_clean = self.temperature * self.temperature_adv


@register_policy(
    "random_temperatures", summary="Class-wise temperatures drawn at random once, which never move", citation=CITATION
)
class RandomTemperatures(_Fixed):
    """Class-wise temperatures without regard to the risk; another seed draws others."""

    random_low: float = hyper(0.5, source=f"chosen here: {BOUNDS}", gt=0)
    random_high: float = hyper(5.0, source=f"chosen here: {BOUNDS}", gt=0)

    def setup(self, context: Context) -> None:
        """Draw both sets."""
        super().setup(context)
        classes = torch.arange(context.num_classes, device=context.device)
        draw = ImageRNG(context.seed, classes, stream=STREAM).uniform((context.num_classes, 2))
        self.temperature_adv, self.temperature_clean = log_uniform(draw, self.random_low, self.random_high).unbind(1)


@register_policy(
    "manual_temperatures",
    summary="Class-wise temperatures set by hand, or once by the risks of the first epoch",
    citation=CITATION,
)
class ManualTemperatures(_Fixed):
    """Fixed temperatures, set by hand or by the risks of the first epoch; both branches share them."""

    temperatures: tuple[float, ...] = hyper(
        (), source="chosen here: one a class, or none to set them after the first epoch; the paper's are unknown"
    )
    manual_spread: float = hyper(0.5, source="chosen here: how far the outermost class is from 1", ge=0, lt=1)

    @classmethod
    def check(cls, values: Mapping[str, Any], num_classes: int | None = None) -> None:
        """Raise InvalidInput for temperatures that are not positive or not one a class."""
        given = values["temperatures"]
        if given and (min(given) <= 0 or len(given) != (num_classes or len(given))):
            raise InvalidInput(f"temperatures: give {num_classes or len(given)} positive numbers, one a class")

    def setup(self, context: Context) -> None:
        """Use the given temperatures."""
        super().setup(context)
        if self.temperatures:
            self.temperature_adv = self.temperature_clean = torch.tensor(self.temperatures, device=context.device)

    def end_epoch(self, record: ClassRecord) -> None:
        """After the first epoch sharpen the labels of hard classes and smooth those of easy ones, once a run."""
        if self.context.epoch == 0 and not self.temperatures:
            ones, low, high = torch.ones_like(self.temperature_adv), 1 - self.manual_spread, 1 + self.manual_spread
            tau = update_temperatures(ones, record.mean("ce_adv"), self.manual_spread, low, high)
            self.temperature_adv = self.temperature_clean = tau


UNIFORM = "RSLAD with one temperature for all classes: ABSLD without classes"
register_method(
    "absld_uniform", base="rslad", policies=["uniform_temperature"], summary=UNIFORM, citation=CITATION, provenance=OURS
)
RANDOM = "RSLAD with random class-wise temperatures: ABSLD without risks"
register_method(
    "absld_random", base="rslad", policies=["random_temperatures"], summary=RANDOM, citation=CITATION, provenance=OURS
)
MANUAL = "RSLAD with fixed class-wise temperatures, by hand or from the first epoch's risks: ABSLD without adaptation"
register_method(
    "absld_manual", base="rslad", policies=["manual_temperatures"], summary=MANUAL, citation=CITATION, provenance=OURS
)
