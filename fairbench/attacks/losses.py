"""What an attack ascends: per-sample losses of logits [B, C] and a target, [B] labels or [B, C] probabilities."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fairbench.losses import cross_entropy, kl_divergence

__all__ = ["LOSSES", "Loss", "ce", "cw", "kl"]

Loss = Callable[[Tensor, Tensor], Tensor]


def ce(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy with labels y int64 [B]; returns [B]."""
    return cross_entropy(logits, y)


def cw(logits: Tensor, y: Tensor) -> Tensor:
    """Carlini-Wagner margin: the largest wrong logit minus the true one, positive once broken; returns [B].

    No confidence cap: PGD wants a gradient at every iterate. Source: Carlini and Wagner, "Towards Evaluating the
    Robustness of Neural Networks", S&P 2017, objective f_6 as PGD codes use it.
    """
    true = logits.gather(1, y.unsqueeze(1))
    wrong = logits.scatter(1, y.unsqueeze(1), -torch.inf).amax(1)
    return wrong - true.squeeze(1)


def kl(logits: Tensor, probabilities: Tensor) -> Tensor:
    """KL(probabilities || softmax(logits)), probabilities [B, C] those of the clean image (TRADES); returns [B]."""
    return kl_divergence(probabilities, logits)


LOSSES: dict[str, Loss] = {"ce": ce, "cw": cw, "kl": kl}
