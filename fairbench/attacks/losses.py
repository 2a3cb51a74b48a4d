"""What an attack ascends: per-sample losses of logits [B, C] and a target, [B] labels or [B, C] probabilities."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fairbench.kernels import cw_margin, dlr_margin
from fairbench.losses import cross_entropy, kl_divergence

__all__ = ["LOSSES", "Loss", "ce", "cw", "dlr", "kl", "targeted_dlr"]

Loss = Callable[[Tensor, Tensor], Tensor]

_TINY = 1e-12


def ce(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy with labels y int64 [B]; returns [B]."""
    return cross_entropy(logits, y)


def cw(logits: Tensor, y: Tensor) -> Tensor:
    """Carlini-Wagner margin: the largest wrong logit minus the true one, positive once broken; returns [B].

    No confidence cap: PGD wants a gradient at every iterate. Source: Carlini and Wagner, "Towards Evaluating the
    Robustness of Neural Networks", S&P 2017, objective f_6 as PGD codes use it.
    """
    return cw_margin(logits, y)


def kl(logits: Tensor, probabilities: Tensor) -> Tensor:
    """KL(probabilities || softmax(logits)), probabilities [B, C] those of the clean image (TRADES); returns [B]."""
    return kl_divergence(probabilities, logits)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio: the margin of `cw` over z_1 - z_3, the largest logit minus the third; returns [B].

    Below three classes there is no third and the margin stands alone. Source: Croce and Hein, "Reliable evaluation of
    adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020, eq. 6.
    """
    return dlr_margin(logits, y)


def targeted_dlr(logits: Tensor, aim: Tensor) -> Tensor:
    """The ratio that goes up as a target overtakes the truth; aim int64 [B,2] are labels and targets; returns [B].

    (z_t - z_y) / (z_1 - (z_3 + z_4) / 2), the margin alone below four classes (same paper, eq. 7).
    """
    true, target = logits.gather(1, aim).unbind(1)
    if logits.shape[1] < 4:
        return target - true
    top = logits.topk(4, dim=1).values
    return (target - true) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


LOSSES: dict[str, Loss] = {"ce": ce, "cw": cw, "dlr": dlr, "kl": kl}
