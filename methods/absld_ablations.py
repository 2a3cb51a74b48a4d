"""Ablations of ABSLD, designed by this project: temperatures that follow other quantities, or act in one branch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fairbench import (
    AttackOutput,
    Batch,
    ClassRecord,
    InvalidInput,
    StepOutput,
    kl_divergence,
    register_method,
    register_policy,
    soften,
)

from .absld import ABSLDTemperatures

__all__ = ["AdvTemperatures", "CleanTemperatures", "KLRiskTemperatures", "OneSetTemperatures", "with_risks"]

CITATION = (
    "Ablation of Zhao et al., Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation, "
    "NeurIPS 2024, arXiv 2312.05508"
)


def with_risks(adv: Tensor, clean: Tensor) -> ClassRecord:
    """Return a record with the given class risks, float [C], to which ABSLD's rule can be applied."""
    record = ClassRecord(len(adv), adv.device)
    record.sums = {"ce_adv": adv, "ce_clean": clean}
    record.counts = dict.fromkeys(record.sums, torch.ones_like(adv))
    return record


@register_policy("one_set_temperatures", summary="ABSLD's rule, one set for both branches", citation=CITATION)
class OneSetTemperatures(ABSLDTemperatures):
    """Both branches share one set of temperatures, which follows the mean of both risks."""

    def end_epoch(self, record: ClassRecord) -> None:
        """Update both sets equally."""
        risk = (record.mean("ce_adv") + record.mean("ce_clean")) / 2
        super().end_epoch(with_risks(risk, risk))


@register_policy("adv_temperatures", summary="ABSLD's rule in the adversarial branch alone", citation=CITATION)
class AdvTemperatures(ABSLDTemperatures):
    """The clean branch, if there is one, keeps temperature 1."""

    supplies = ("temperature_adv",)

    def end_epoch(self, record: ClassRecord) -> None:
        """Update the adversarial set."""
        super().end_epoch(with_risks(record.mean("ce_adv"), torch.zeros_like(self.temperature_clean)))

    def vectors(self) -> Mapping[str, Tensor]:
        """The adversarial set."""
        return {"temperature_adv": super().vectors()["temperature_adv"]}


@register_policy("clean_temperatures", summary="ABSLD's rule in the clean branch alone", citation=CITATION)
class CleanTemperatures(ABSLDTemperatures):
    """The adversarial branch and the attack keep temperature 1."""

    supplies = ("temperature_clean",)

    def end_epoch(self, record: ClassRecord) -> None:
        """Update the clean set."""
        super().end_epoch(with_risks(torch.zeros_like(self.temperature_adv), record.mean("ce_clean")))

    def vectors(self) -> Mapping[str, Tensor]:
        """The clean set."""
        return {"temperature_clean": super().vectors()["temperature_clean"]}


@register_policy("kl_risk_temperatures", summary="ABSLD's rule, steered by the KL to the soft label", citation=CITATION)
class KLRiskTemperatures(ABSLDTemperatures):
    """Equalise the objective's own KL terms, which depend on the class's temperature too."""

    def statistics(self, batch: Batch, attacked: AttackOutput, output: StepOutput) -> Mapping[str, Tensor]:
        """Each branch's KL; raises InvalidInput for a base without soft labels of both branches."""
        teacher, branches = attacked.memo.get("teacher"), {"adv": output.logits_adv, "clean": output.logits_clean}
        values = {}
        for branch, logits in branches.items():
            if teacher is None or logits is None:
                raise InvalidInput("kl_risk_temperatures: the base has no soft labels of both branches, as rslad has")
            soft = soften(teacher, batch.y, self.vectors()[f"temperature_{branch}"])
            values[f"kl_{branch}"] = kl_divergence(soft, logits.detach())
        return values

    def end_epoch(self, record: ClassRecord) -> None:
        """Move both sets by the class means of their own KL."""
        super().end_epoch(with_risks(record.mean("kl_adv"), record.mean("kl_clean")))


OURS = "ablation"
ONE = "ABSLD with one set of temperatures for both branches"
register_method(
    "absld_one_set", base="rslad", policies=["one_set_temperatures"], summary=ONE, citation=CITATION, provenance=OURS
)
ADV = "ABSLD with temperatures in the attack and the adversarial branch only"
register_method(
    "absld_adv_only", base="rslad", policies=["adv_temperatures"], summary=ADV, citation=CITATION, provenance=OURS
)
CLEAN = "ABSLD with temperatures in the clean branch only"
register_method(
    "absld_clean_only", base="rslad", policies=["clean_temperatures"], summary=CLEAN, citation=CITATION, provenance=OURS
)
KL = "ABSLD steered by the KL to the soft label in place of the cross-entropy"
register_method(
    "absld_kl_risk", base="rslad", policies=["kl_risk_temperatures"], summary=KL, citation=CITATION, provenance=OURS
)
