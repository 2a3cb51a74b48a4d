"""Natural training without attacks: its robust accuracy near 0 shows that an attack works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from fairbench import AttackOutput, Batch, Method, StepOutput, cross_entropy, register_method

from .sat import SAT

__all__ = ["Natural"]


@register_method(
    "natural",
    summary="Natural training: cross-entropy on clean inputs, robust accuracy near 0 expected",
    citation="The clean baseline of yaodongyu/TRADES and boyellow/adaad",
    provenance="code",
)
class Natural(Method):
    """Minimise the cross-entropy of the clean inputs."""

    reads = ("weight", "weight_clean")
    paper_recipe: ClassVar[Mapping[str, Any]] = SAT.paper_recipe
    departures = ("The optimiser of the paper is that of standard adversarial training, sat.",)

    def attack(self, model: nn.Module, batch: Batch) -> AttackOutput:
        """Return the images unchanged."""
        return AttackOutput(batch.x)

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Mean cross-entropy on the clean inputs."""
        logits = model(batch.x)
        return StepOutput(self.mean(cross_entropy(logits, batch.y), batch.y, "weight_clean"), logits_clean=logits)
