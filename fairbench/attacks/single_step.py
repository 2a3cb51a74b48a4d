"""The attacks with at most one gradient: `clean`, which changes nothing, and `fgsm`."""

from __future__ import annotations

from torch import Tensor, nn

from fairbench.attacks.pgd import Iterate, Norm, pgd
from fairbench.attacks.projections import AnyNorm
from fairbench.attacks.random import ImageRNG
from fairbench.registration import register_attack

__all__ = ["clean", "fgsm"]


@register_attack("clean", summary="no attack: the images as they are")
def clean(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: AnyNorm = "Linf", rng: ImageRNG) -> Tensor:
    """Return x itself."""
    return x


@register_attack("fgsm", summary="one gradient step of eps, without noise")
def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    rng: ImageRNG,
    iterate: Iterate = "any",
) -> Tensor:
    """Return x after one step of `eps` that increases the cross-entropy, from x itself.

    With iterate="any" an image that is misclassified without a step stays unchanged, so that FGSM accuracy never
    exceeds clean accuracy. Source: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015.
    """
    return pgd(model, x, y, eps=eps, norm=norm, steps=1, step=eps, rng=rng, iterate=iterate, random_start=False)
