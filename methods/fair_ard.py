"""Fair-ARD (Yue et al., 2023): weigh each class by how few attack steps its samples survive, in any distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from fairbench import ClassPolicy, ClassRecord, hyper, register_method, register_policy

__all__ = ["FairARDWeights", "survival_weights"]

CITATION = (
    "Yue et al., Revisiting Adversarial Robustness Distillation from the Perspective of Robust Fairness, NeurIPS 2023"
)
CODE = "code: NISP-official/Fair-ARD"


def survival_weights(kappa: Tensor, beta: float, low: float = 5 / 6, high: float = 5 / 2) -> Tensor:
    """Class weights (kappa + 1e-5)^-beta, scaled to the sum C and then clamped, which may change the sum.

    kappa float [C] is the mean number of attack steps that a class's samples survive. Equal values give ones.
    """
    hardness = (kappa + 1e-5) ** -beta
    return (len(kappa) * hardness / hardness.sum()).clamp(low, high)


@register_policy(
    "fair_ard_weights",
    summary="Class weights from the number of attack steps that a class's samples survive",
    citation=CITATION,
)
class FairARDWeights(ClassPolicy):
    """Weigh classes in the next epoch by the number of iterates at which their samples are classified correctly."""

    supplies = ("weight",)
    paper_recipe: ClassVar[Mapping[str, Any]] = {"nesterov": True}
    departures: ClassVar[tuple[str, ...]] = (
        "Survived steps are means by true class counts; the script divides by N/C, which assumes balanced classes.",
        "All four methods add 1e-5 to the survived steps; the script of Fair-RSLAD does not and may divide by zero.",
        "The scripts use Nesterov momentum, which the suite's recipe decides; the _released methods always use it.",
    )
    survival_beta: float = hyper(2.0, source=CODE, ge=0)
    weight_low: float = hyper(5 / 6, source=CODE, gt=0)
    weight_high: float = hyper(5 / 2, source=CODE, gt=0)

    def end_epoch(self, record: ClassRecord) -> None:
        """Update the weights; kappa is stored for the history."""
        self.kappa = record.mean("survived")
        self.weight = survival_weights(self.kappa, self.survival_beta, self.weight_low, self.weight_high)


register_method(
    "fair_ard",
    base="ard",
    policies=["fair_ard_weights"],
    summary="Fair-ARD: ARD with class weights from survived attack steps",
    citation=CITATION,
    provenance="code",
)
register_method(
    "fair_iad",
    base="iad",
    policies=["fair_ard_weights"],
    options={"iad.pass_order": "adv-clean-adv", "iad.late_order": "adv-clean-adv"},
    summary="Fair-IAD: IAD-I with class weights from survived attack steps on both terms",
    citation=CITATION,
    provenance="code",
)
register_method(
    "fair_rslad",
    base="rslad",
    policies=["fair_ard_weights"],
    summary="Fair-RSLAD: RSLAD with class weights from survived attack steps on both terms",
    citation=CITATION,
    provenance="code",
)
register_method(
    "fair_mtard",
    base="mtard",
    policies=["fair_ard_weights"],
    summary="Fair-MTARD: MTARD, both teachers in use, with class weights from survived attack steps",
    citation=CITATION,
    provenance="paper",
)
