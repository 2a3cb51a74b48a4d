"""Per-sample losses that objectives share. Every function keeps the batch dimension, so that class weights can be
applied.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["HardLabels", "SoftLabels", "cross_entropy", "kl_divergence", "soften"]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy in nats of logits [B,C] with labels y int64 [B]; returns [B]."""
    return F.cross_entropy(logits.float(), y, reduction="none")


def kl_divergence(target: Tensor, logits: Tensor) -> Tensor:
    """KL(target || softmax(logits)) in nats, summed over classes; target probabilities and logits [B,C]; returns [B].

    The mean of the result over the batch is PyTorch's `batchmean`. Methods whose scripts average over the classes too
    scale that mean by their `kl_scale`.
    """
    positive = target.float().clamp(min=1e-30)  # the gradient of t log t with respect to t is not finite at 0
    return F.kl_div(F.log_softmax(logits.float(), dim=1), positive, reduction="none").sum(dim=1)


def soften(teacher_logits: Tensor, y: Tensor, tau: Tensor) -> Tensor:
    """Soft labels [B,C] = softmax(teacher_logits / tau[y]): one temperature per class, tau float [C] (ABSLD)."""
    return torch.softmax(teacher_logits.float() / tau[y].unsqueeze(1), dim=1)


class HardLabels:
    """Cross-entropy with labels y int64 [B], as a loss for the inner maximisation: logits [B,C] -> [B].

    It computes its own gradient, so that an attack on a copy of the network needs no autograd.
    """

    def __init__(self, y: Tensor) -> None:
        self.y = y

    def __call__(self, logits: Tensor) -> Tensor:
        """Return [B], in nats."""
        return cross_entropy(logits, self.y)

    def gradient(self, logits: Tensor) -> Tensor:
        """Return the gradient of the sum with respect to the logits, [B,C]."""
        probabilities = logits.softmax(1)
        return probabilities.scatter_add_(1, self.y.unsqueeze(1), probabilities.new_full((len(self.y), 1), -1.0))


class SoftLabels:
    """KL(softmax(teacher / temperature) || softmax(logits)), as a loss for the inner maximisation: logits [B,C] -> [B].

    Teacher logits [B,C]; `temperature` float [B], 1 by default. It computes its own gradient like HardLabels.
    """

    def __init__(self, teacher: Tensor, temperature: Tensor | None = None) -> None:
        self.teacher = teacher
        self.temperature = torch.ones_like(teacher[:, 0]) if temperature is None else temperature

    def __call__(self, logits: Tensor) -> Tensor:
        """Return [B], in nats."""
        return kl_divergence(self._target, logits)

    def gradient(self, logits: Tensor) -> Tensor:
        """Return the gradient of the sum with respect to the logits, [B,C]."""
        return logits.softmax(1).sub_(self._target)

    @cached_property
    def _target(self) -> Tensor:
        return torch.softmax(self.teacher.float() / self.temperature.unsqueeze(1), dim=1)
