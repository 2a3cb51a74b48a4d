"""CFA (Wei et al., 2023): margins and TRADES coefficients calibrated to each class (CCM, CCR)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

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

from .trades import TRADES, trades_terms

__all__ = ["CFABetas", "CFAMargins", "Calibrated", "NormalisedTRADES", "class_betas", "class_margins"]

CITATION = "Wei et al., CFA: Class-wise Calibrated Fair Adversarial Training, CVPR 2023, arXiv 2303.14460"


def class_margins(robust_accuracy: Tensor, lambda_1: float) -> Tensor:
    """CCM, factors of epsilon [C] from last epoch's robust training accuracies [C]: lambda_1 + t (eq. 6-8)."""
    return lambda_1 + robust_accuracy


def class_betas(robust_accuracy: Tensor, lambda_2: float, beta: float) -> Tensor:
    """CCR, coefficients [C] from last epoch's robust training accuracies [C]: (lambda_2 + t) * beta (eq. 6-8)."""
    return (lambda_2 + robust_accuracy) * beta


class Calibrated(ClassPolicy, ABC):
    """One factor a class that follows its robust accuracy on the training set's own adversarial examples."""

    begin: float = hyper(10 / 200, source="code: PKU-ML/CFA, epoch 10 of 200", ge=0, le=1)

    @abstractmethod
    def calibrate(self, robust_accuracy: Tensor) -> Tensor:
        """Factors [C] from robust accuracies [C]."""

    def setup(self, context: Context) -> None:
        """Start with the base's value for every class."""
        super().setup(context)
        self.__dict__ |= {name: torch.ones(context.num_classes, device=context.device) for name in self.supplies}

    def end_epoch(self, record: ClassRecord) -> None:
        """Calibrate the next epoch, once it is time."""
        if (self.context.epoch + 1) / self.context.epochs >= self.begin:
            self.__dict__ |= dict.fromkeys(self.supplies, self.calibrate(record.mean("correct_adv")))

    def vectors(self) -> Mapping[str, Tensor]:
        """Factors in force."""
        return {name: getattr(self, name) for name in self.supplies}


@register_policy("cfa_margins", summary="CCM: margins grow with the class's robust accuracy", citation=CITATION)
class CFAMargins(Calibrated):
    """A robust class gets a larger ball and a weak class a smaller one; the step stays as it is."""

    supplies: ClassVar[tuple[str, ...]] = ("margin",)
    lambda_1: float = hyper(0.5, source="paper: 0.5 for SAT, 0.3 for TRADES", gt=0)

    def calibrate(self, robust_accuracy: Tensor) -> Tensor:
        """Margins."""
        return class_margins(robust_accuracy, self.lambda_1)


@register_policy("cfa_betas", summary="CCR: the TRADES coefficient grows with robust accuracy", citation=CITATION)
class CFABetas(Calibrated):
    """A robust class is regularised more, a weak class left to the clean term."""

    supplies: ClassVar[tuple[str, ...]] = ("beta",)
    lambda_2: float = hyper(0.5, source="paper", gt=0)

    def calibrate(self, robust_accuracy: Tensor) -> Tensor:
        """Factors of the base's coefficient."""
        return class_betas(robust_accuracy, self.lambda_2, beta=1.0)


@register_method(
    "trades_normalised", summary="TRADES divided by 1 + beta, as in CFA", citation=CITATION, provenance="code"
)
class NormalisedTRADES(TRADES):
    """TRADES as CFA writes it: a sample's clean and boundary terms weigh 1 and beta out of 1 + beta."""

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Mean of (CE(clean) + beta * KL) / (1 + beta), with each class's own beta."""
        clean, adv = model(batch.x), model(attacked.x_adv)
        natural, boundary = trades_terms(clean, adv, batch.y)
        share = 1 / (1 + self.beta * self.per_sample("beta", batch.y))
        total = self.mean(share * natural, batch.y, "weight_clean")
        total = total + self.mean((1 - share) * boundary, batch.y, "weight_adv")
        return StepOutput(total, logits_adv=adv, logits_clean=clean)


SAT = "CFA on SAT: class-wise margins, and averaging of fair epochs"
ON_TRADES = "CFA on TRADES: class-wise margins and coefficients, and averaging of fair epochs"
register_method(
    "cfa_sat", base="sat", policies=["cfa_margins", "fawa"], summary=SAT, citation=CITATION, provenance="paper"
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
