"""Per-sample losses that objectives share; every function keeps the batch dimension so that class weights can act."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["cross_entropy", "kl_divergence", "soften"]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy in nats of logits [B,C] with labels y int64 [B]; returns [B]."""
    return F.cross_entropy(logits.float(), y, reduction="none")


def kl_divergence(target: Tensor, logits: Tensor) -> Tensor:
    """KL(target || softmax(logits)) in nats, summed over classes; target probabilities and logits [B,C]; returns [B].

    The mean of the result is what PyTorch calls `batchmean`; the family of RSLAD divides it by the number of classes
    on CIFAR-10, which objectives express through their `kl_scale`.
    """
    positive = target.float().clamp(min=1e-30)  # the gradient of t log t with respect to t is not finite at 0
    return F.kl_div(F.log_softmax(logits.float(), dim=1), positive, reduction="none").sum(dim=1)


def soften(teacher_logits: Tensor, y: Tensor, tau: Tensor) -> Tensor:
    """Soft labels [B,C] = softmax(teacher_logits / tau[y]): one temperature per class, tau float [C] (ABSLD)."""
    return torch.softmax(teacher_logits.float() / tau[y].unsqueeze(1), dim=1)
