"""ABSLD with the sign of its rule reversed, an ablation designed by this project: smoother labels for hard classes."""

from __future__ import annotations

from fairbench import ClassRecord, register_method, register_policy

from .absld import ABSLDTemperatures
from .absld_ablations import with_risks

__all__ = ["ReversedTemperatures"]

CITATION = (
    "Ablation of Zhao et al., Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation, "
    "NeurIPS 2024, arXiv 2312.05508"
)


@register_policy("reversed_temperatures", summary="ABSLD's rule with its sign reversed", citation=CITATION)
class ReversedTemperatures(ABSLDTemperatures):
    """Classes whose risk is above the mean get higher temperatures, the others lower ones."""

    def end_epoch(self, record: ClassRecord) -> None:
        """Move both sets by the negative risks."""
        super().end_epoch(with_risks(-record.mean("ce_adv"), -record.mean("ce_clean")))


register_method(
    "absld_reversed",
    base="rslad",
    policies=["reversed_temperatures"],
    summary="ABSLD with its rule reversed: smoother labels for hard classes, sharper ones for easy ones",
    citation=CITATION,
    provenance="ablation",
)
