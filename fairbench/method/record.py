"""The values that a method and the trainer exchange: outputs of an attack and of a step, and class-wise sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fairbench import distributed
from fairbench.errors import InvalidInput
from fairbench.kernels import class_counts, class_sums

__all__ = ["AttackOutput", "ClassRecord", "StepOutput"]


@dataclass(frozen=True)
class AttackOutput:
    """The output of the inner maximisation, which the loss receives.

    x_adv float32 [B,C,H,W]; survived int64 [B] or None, the number of iterates still classified correctly; keep bool
    [B] or None, the samples that count; memo, tensors computed for the attack that the loss uses again.
    """

    x_adv: Tensor
    survived: Tensor | None = None
    keep: Tensor | None = None
    memo: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class StepOutput:
    """The output of the outer minimisation: a scalar loss, and logits [B,C] for the class record if there are any."""

    loss: Tensor
    logits_adv: Tensor | None = None
    logits_clean: Tensor | None = None


class ClassRecord:
    """Per-class sums of per-sample statistics over one epoch, kept on the device without a host sync.

    The trainer adds `ce_adv`, `ce_clean`, `correct_adv`, `correct_clean` and `survived` if a step provides them.
    """

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.num_classes = num_classes
        self.device = device
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    def add(self, y: Tensor, statistics: Mapping[str, Tensor]) -> None:
        """Add per-sample values, [B] or [B,K], of samples with labels y int64 [B]."""
        count = class_counts(y, self.num_classes)
        for name, values in statistics.items():
            total = class_sums(values.detach().float(), y, self.num_classes)
            if name not in self.sums:
                self.sums[name], self.counts[name] = torch.zeros_like(total), torch.zeros_like(count)
            self.sums[name] += total  # in place, so that a recorded step adds to the same tensors
            self.counts[name] += count

    def all_reduce(self) -> None:
        """Add up the records of all ranks, once an epoch, before class-wise state is updated; alone, do nothing."""
        distributed.add_up([*self.sums.values(), *self.counts.values()])

    def mean(self, name: str) -> Tensor:
        """Class means float32 [C] (or [C,K]) of a statistic; 0 for a class that did not occur.

        Raises InvalidInput for a statistic that was not recorded.
        """
        if name not in self.sums:
            raise InvalidInput(f"the class record has no {name!r}; it has: {', '.join(sorted(self.sums)) or 'nothing'}")
        counts = self.counts[name].clamp(min=1).to(torch.float32)
        return self.sums[name] / counts.view(-1, *[1] * (self.sums[name].dim() - 1))
