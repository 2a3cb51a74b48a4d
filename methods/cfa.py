"""CFA (Wei et al., 2023): margins and TRADES coefficients calibrated to each class (CCM, CCR)."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from fairbench import ClassPolicy, ClassRecord, hyper, register_method, register_policy

from .sat import NORMALISED, REFLECTED, SAT

__all__ = ["CFABetas", "CFAMargins", "Calibrated", "class_betas", "class_margins"]

CITATION = "Wei et al., CFA: Class-wise Calibrated Fair Adversarial Training, CVPR 2023, arXiv 2303.14460"


def class_margins(robust_accuracy: Tensor, lambda_1: float) -> Tensor:
    """CCM, factors of epsilon [C] from last epoch's robust training accuracies [C]: lambda_1 + t (eq. 6-8)."""
    return lambda_1 + robust_accuracy


def class_betas(robust_accuracy: Tensor, lambda_2: float, beta: float) -> Tensor:
    """CCR, coefficients [C] from last epoch's robust training accuracies [C]: (lambda_2 + t) * beta (eq. 6-8)."""
    return (lambda_2 + robust_accuracy) * beta


class Calibrated(ClassPolicy, ABC):
    """One factor per class that follows its robust accuracy on the training attack's own images."""

    paper_recipe = SAT.paper_recipe
    departures = (
        "Class accuracies are means by true class counts; the script divides by N/C, which assumes balanced classes.",
        NORMALISED,
        REFLECTED,
    )
    begin: float = hyper(10 / 200, source="code: PKU-ML/CFA, epoch 10 of 200", ge=0, le=1)

    @abstractmethod
    def calibrate(self, robust_accuracy: Tensor) -> Tensor:
        """Factors [C] from robust accuracies [C]."""

    def end_epoch(self, record: ClassRecord) -> None:
        """Set the factors of the next epoch, once calibration has begun."""
        if (self.context.epoch + 1) / self.context.epochs >= self.begin:
            for vector in self.supplies:
                setattr(self, vector, self.calibrate(record.mean("correct_adv")))


@register_policy("cfa_margins", summary="CCM: margins grow with the class's robust accuracy", citation=CITATION)
class CFAMargins(Calibrated):
    """A robust class gets a larger ball and a weak class a smaller one; the attack step does not change."""

    supplies = ("margin",)
    lambda_1: float = hyper(0.5, source="paper: 0.5 for SAT, 0.3 for TRADES", search=[0.3, 0.5, 0.7], gt=0)

    def calibrate(self, robust_accuracy: Tensor) -> Tensor:
        """Margins."""
        return class_margins(robust_accuracy, self.lambda_1)


@register_policy("cfa_betas", summary="CCR: the TRADES coefficient grows with robust accuracy", citation=CITATION)
class CFABetas(Calibrated):
    """A robust class is regularised more, and a weak class less."""

    supplies = ("beta",)
    lambda_2: float = hyper(0.5, source="paper", gt=0)

    def calibrate(self, robust_accuracy: Tensor) -> Tensor:
        """Factors of the base's coefficient."""
        return class_betas(robust_accuracy, self.lambda_2, beta=1.0)


ON_SAT = "CFA on SAT: class-wise margins, and averaging of fair epochs"
ON_TRADES = "CFA on TRADES: class-wise margins and coefficients, and averaging of fair epochs"
register_method(
    "cfa_sat",
    base="sat_train_mode",
    policies=["cfa_margins", "fawa"],
    summary=ON_SAT,
    citation=CITATION,
    provenance="paper",
)
register_method(
    "cfa_trades",
    base="trades_normalised",
    policies=["cfa_margins", "cfa_betas", "fawa"],
    options={"cfa_margins.lambda_1": 0.3},
    summary=ON_TRADES,
    citation=CITATION,
    provenance="paper",
)
