"""A class policy that notes what a method lets it see and do."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fairbench.data.batch import Batch
from fairbench.method.method import ClassPolicy, Context
from fairbench.method.record import AttackOutput, ClassRecord, StepOutput

__all__ = ["FORWARDED", "Spy"]

# The hooks of a class policy, and the hook of the method that passes each on.
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
    """Notes which hooks reach a class policy, and supplies an uneven vector under any name."""

    def __init__(self, *supplies: str) -> None:
        super().__init__()  # type: ignore[call-arg]
        self.supplies = supplies  # type: ignore[misc]
        self.reached: set[str] = set()

    def setup(self, context: Context) -> None:
        """Note the call, and make the state that a resume must keep."""
        super().setup(context)
        self.epochs = torch.zeros(1)
        self.reached.add("setup")

    def begin_epoch(self, context: Context) -> None:
        """Note the call."""
        self.reached.add("begin_epoch")

    def sampling(self) -> None:
        """Note the call, and leave the batches as they are."""
        self.reached.add("sampling")

    def around(self, closure: Callable[[], StepOutput]) -> StepOutput:
        """Note the call."""
        self.reached.add("around")
        return closure()

    def statistics(self, batch: Batch, attacked: AttackOutput, output: StepOutput) -> Mapping[str, Tensor]:
        """Note the call, and ask for nothing."""
        self.reached.add("statistics")
        return {}

    def end_epoch(self, record: ClassRecord) -> None:
        """Note the call, and change the state."""
        self.epochs += 1
        self.reached.add("end_epoch")

    def export_model(self, model: nn.Module) -> nn.Module:
        """Note the call, and hand on the model."""
        self.reached.add("export_model")
        return model

    def vectors(self) -> Mapping[str, Tensor]:
        """Return numbers, one for each of four classes, that no objective can take for ones."""
        return dict.fromkeys(self.supplies, torch.tensor([0.4, 0.6, 0.8, 1.0]))
