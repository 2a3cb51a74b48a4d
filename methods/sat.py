"""Standard adversarial training (Madry et al., 2018), and its variant in the scripts of CFA and AWP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import nn

from fairbench import AttackOutput, Batch, Method, StepOutput, cross_entropy, hyper, register_method

__all__ = ["NORMALISED", "REFLECTED", "SAT", "TrainModeSAT"]

CITATION = "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018, arXiv 1706.06083"
NORMALISED = "The script normalises images inside the network; here the suite's `model` decides."
REFLECTED = "The script pads random crops by reflection; here the suite's `pad_mode` decides."


@register_method(
    "sat",
    summary="Standard adversarial training: cross-entropy on PGD examples",
    citation=CITATION,
    provenance="paper",
)
class SAT(Method):
    """Minimise the cross-entropy of the images that PGD finds in each sample's ball."""

    reads: ClassVar[tuple[str, ...]] = ("weight", "weight_adv", "margin", "step")
    clip_start = True
    paper_recipe: ClassVar[Mapping[str, Any]] = {
        "lr": 0.1,
        "weight_decay": 5e-4,
        "nesterov": False,
        "epochs": 200,
        "milestones": (0.5, 0.75),
    }
    departures: ClassVar[tuple[str, ...]] = (
        "SAT's optimiser is that of the script of PKU-ML/CFA; the code of SAT's authors is for TensorFlow.",
        "SAT attacks in eval mode; sat_train_mode attacks in train mode, as the SAT scripts of CFA and AWP do.",
    )

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Mean cross-entropy on the adversarial inputs."""
        logits = model(attacked.x_adv)
        return StepOutput(self.mean(cross_entropy(logits, batch.y), batch.y, "weight_adv"), logits_adv=logits)


@register_method(
    "sat_train_mode",
    summary="SAT with the attack in train mode and a clean pass for BatchNorm: the base of CFA and AT-AWP",
    citation=CITATION,
    provenance="code",
)
class TrainModeSAT(SAT):
    """BatchNorm's running statistics see every attack step, and a clean pass that the loss does not use."""

    attack_mode = "train"
    departures = (
        "The clean pass in train mode precedes the optimiser's step; the scripts of CFA and AT-AWP make it afterwards.",
        "AT-AWP's script attacks the first batch of every later epoch in eval mode, left over from its test.",
        NORMALISED,
    )
    pass_order: Literal["adv-clean", "adv-adv-clean"] = hyper(
        "adv-clean", source="code: PKU-ML/CFA; adv-adv-clean in csdongxian/AWP, which scores the attack first"
    )

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Mean cross-entropy on the adversarial inputs; the clean pass carries no gradient."""
        logits = self.passes(model, batch, attacked, self.pass_order, silent=("clean",))
        total = self.mean(cross_entropy(logits["adv"], batch.y), batch.y, "weight_adv")
        return StepOutput(total, logits_adv=logits["adv"], logits_clean=logits["clean"])
