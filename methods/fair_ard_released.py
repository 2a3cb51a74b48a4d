"""The Fair-ARD family (Yue et al., 2023) with the optimisers of its published scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from fairbench import register_method, register_policy

from .fair_ard import FairARDWeights

__all__ = ["FairARDReleased", "FairARDRestarted"]

CITATION = (
    "Yue et al., Revisiting Adversarial Robustness Distillation from the Perspective of Robust Fairness, NeurIPS 2023"
)


@register_policy(
    "fair_ard_weights_released",
    summary="Fair-ARD's class weights, with the Nesterov momentum of its scripts",
    citation=CITATION,
)
class FairARDReleased(FairARDWeights):
    """The same weights, with the scripts' optimiser in place of the suite's."""

    departures: ClassVar[tuple[str, ...]] = (
        "Survived steps are means by true class counts; the script divides by N/C, which assumes balanced classes.",
        "All four methods add 1e-5 to the survived steps; the script of Fair-RSLAD does not and may divide by zero.",
    )
    own_recipe: ClassVar[Mapping[str, Any]] = {"nesterov": True}


@register_policy(
    "fair_ard_weights_restarted",
    summary="Fair-ARD's class weights, with its scripts' Nesterov momentum and learning rate",
    citation=CITATION,
)
class FairARDRestarted(FairARDReleased):
    """On a schedule of milestones the scripts of Fair-ARD and Fair-IAD decay the initial learning rate each time.

    Their second milestone therefore sets the rate that the first has set: one milestone is equivalent.
    """

    departures: ClassVar[tuple[str, ...]] = (
        *FairARDReleased.departures,
        "The rate drops once on a schedule of milestones, as in effect in the script; on a one-cycle schedule Nesterov "
        "momentum is the only difference from the method without `_released`.",
    )
    own_recipe: ClassVar[Mapping[str, Any]] = {"nesterov": True, "milestones": (0.5,)}


register_method(
    "fair_ard_released",
    base="ard",
    policies=["fair_ard_weights_restarted"],
    summary="Fair-ARD as its script trains it: Nesterov momentum, and one of two drops of the learning rate",
    citation=CITATION,
    provenance="code",
)
register_method(
    "fair_iad_released",
    base="iad",
    policies=["fair_ard_weights_restarted"],
    options={"iad.pass_order": "adv-clean-adv", "iad.late_order": "adv-clean-adv"},
    summary="Fair-IAD as its script trains it: Nesterov momentum, and one of two drops of the learning rate",
    citation=CITATION,
    provenance="code",
)
register_method(
    "fair_rslad_released",
    base="rslad",
    policies=["fair_ard_weights_released"],
    summary="Fair-RSLAD as its script trains it: with Nesterov momentum",
    citation=CITATION,
    provenance="code",
)
register_method(
    "fair_mtard_released",
    base="mtard",
    policies=["fair_ard_weights_released"],
    options={"mtard.one_teacher": True},
    summary="Fair-MTARD as its script computes it: Nesterov, and both branches follow the robust teacher at x_adv",
    citation=CITATION,
    provenance="code",
)
