"""Standard adversarial training (Madry et al., 2018)."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from fairbench import AttackOutput, Batch, Method, StepOutput, cross_entropy, register_method

__all__ = ["SAT"]


@register_method(
    "sat",
    summary="Standard adversarial training: cross-entropy on PGD examples",
    citation="Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018, arXiv 1706.06083",
    provenance="paper",
)
class SAT(Method):
    """Minimise the cross-entropy of the worst input that PGD finds in each sample's ball."""

    reads: ClassVar[tuple[str, ...]] = ("weight", "weight_adv", "margin", "step")

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Mean cross-entropy on the adversarial inputs."""
        logits = model(attacked.x_adv)
        return StepOutput(self.mean(cross_entropy(logits, batch.y), batch.y, "weight_adv"), logits_adv=logits)
