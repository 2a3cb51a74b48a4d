"""Transfer: images crafted on a surrogate attack the model, whose gradients are not used."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from fairbench.attacks.gradient import frozen
from fairbench.attacks.losses import LossName
from fairbench.attacks.pgd import Norm, Steps, StepSize, pgd
from fairbench.attacks.random import ImageRNG
from fairbench.errors import InvalidInput
from fairbench.files import named_file
from fairbench.models.opening import open_model
from fairbench.registration import register_attack

__all__ = ["transfer"]


@register_attack("transfer", summary="PGD on another checkpoint, K steps: transfer-20:surrogate=PATH")
def transfer(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    surrogate: str,
    steps: Steps = 20,
    step: StepSize,
    loss: LossName = "ce",
    rng: ImageRNG,
) -> Tensor:
    """Return the last iterates of PGD on the checkpoint `surrogate`; images that the model misclassifies stay
    unchanged.

    The last iterate transfers better than the first one that misleads the surrogate, because it lies deeper in a wrong
    class. Raises InvalidInput for a surrogate that does not fit the images or has other classes, and what `open_model`
    raises.
    """
    other = _open(surrogate, str(x.device), _stamp(surrogate))
    with torch.no_grad():
        logits = model(x)
        try:
            theirs = other(x[:1])
        except RuntimeError as error:
            raise InvalidInput(f"{surrogate}: cannot take images of {list(x.shape[1:])}: {error}") from error
    if theirs.shape[1] != logits.shape[1]:
        raise InvalidInput(f"{surrogate}: has {theirs.shape[1]} classes, the model that is attacked {logits.shape[1]}")
    with frozen(other):
        found = pgd(other, x, y, eps=eps, norm=norm, steps=steps, step=step, loss=loss, rng=rng, iterate="last")
    return torch.where((logits.argmax(1) == y)[:, None, None, None], found, x)


@lru_cache(maxsize=4)
def _open(surrogate: str, device: str, _written: tuple[int, ...]) -> nn.Module:
    return open_model(surrogate).to(device)


def _stamp(surrogate: str) -> tuple[int, ...]:
    """Return what changes whenever a surrogate's file is written anew; empty for a surrogate that is no file."""
    path = named_file(surrogate)
    if not path.is_file():
        return ()
    about = path.stat()
    return about.st_ino, about.st_size, about.st_ctime_ns
