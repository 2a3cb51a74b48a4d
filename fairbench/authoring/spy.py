"""A class policy that records the hooks that a method passes on to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fairbench.data.batch import Batch
from fairbench.method.context import Context
from fairbench.method.policy import ClassPolicy
from fairbench.method.record import AttackOutput, ClassRecord, StepOutput

__all__ = ["FORWARDED", "Spy"]

# The hooks of a class policy, each with the method's hook that calls it.
FORWARDED = {
    "setup": "setup",
    "begin_epoch": "begin_epoch",
    "sampling": "sampling",
    "around": "step",
    "statistics": "statistics",
    "end_epoch": "end_epoch",
    "export_model": "export_model",
}


class Spy(ClassPolicy):
    """Records which hooks reach a class policy, and supplies an uneven vector under any name."""

    def __init__(self, *supplies: str) -> None:
        super().__init__()  # type: ignore[call-arg]
        self.supplies = supplies  # type: ignore[misc]
        self.reached: set[str] = set()

    def setup(self, context: Context) -> None:
        """Record the call, and create the state that a resume must keep."""
        super().setup(context)
        self.epochs = torch.zeros(1)
        self.reached.add("setup")

    def begin_epoch(self, context: Context) -> None:
        """Record the call."""
        self.reached.add("begin_epoch")

    def sampling(self) -> None:
        """Record the call, and leave the batches as they are."""
        self.reached.add("sampling")

    def around(self, closure: Callable[[], StepOutput]) -> StepOutput:
        """Record the call, and run the closure."""
        self.reached.add("around")
        return closure()

    def statistics(self, batch: Batch, attacked: AttackOutput, output: StepOutput) -> Mapping[str, Tensor]:
        """Record the call, and request no statistics."""
        self.reached.add("statistics")
        return {}

    def end_epoch(self, record: ClassRecord) -> None:
        """Record the call, and change the state."""
        self.epochs += 1
        self.reached.add("end_epoch")

    def export_model(self, model: nn.Module) -> nn.Module:
        """Record the call, and return the model."""
        self.reached.add("export_model")
        return model

    def vectors(self) -> Mapping[str, Tensor]:
        """Return four numbers, one a class, that differ from ones in every objective."""
        return dict.fromkeys(self.supplies, torch.tensor([0.4, 0.6, 0.8, 1.0]))
