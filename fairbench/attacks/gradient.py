"""The gradient of a frozen model with respect to its input only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

import torch
from torch import Tensor, nn

from fairbench.copies import Graphed, Rewritten
from fairbench.errors import FairbenchError, InvalidInput

__all__ = ["frozen", "logits_and_gradient"]

_NO_GRADIENT = (
    "the model's logits have no gradient with respect to its input: it cannot be attacked with gradients; "
    "clean, square and noise need none"
)


@contextmanager
def frozen(model: nn.Module, mode: Literal["eval", "train"] = "eval") -> Iterator[nn.Module]:
    """Put every module in `mode` and disable gradients of all parameters; restore every flag on exit.

    With "train" the running statistics of BatchNorm follow the attack's inputs, as in the official codes of ARD and
    CFA-AT; with "eval" nothing in the model changes. A module whose mode cannot be set, such as a frozen script or an
    exported program, keeps its own, and so do networks in a plain list, which torch does not find: `evaluate` does.
    """
    flags = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        _set_mode(model, training=mode == "train")
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield model
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module, training in flags:
            module.training = training


def _set_mode(model: nn.Module, *, training: bool) -> None:
    """Set the mode of a model; of one that refuses, as exported programs do, the mode of each part that allows it."""
    try:
        model.train(training)
    except Exception:  # a stranger's train()
        for part in model.children():
            with suppress(Exception):
                part.train(training)


def logits_and_gradient(
    model: nn.Module, x: Tensor, loss: Callable[..., Tensor], *target: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the logits [B,C] of x, detached, and the gradient of the sum of `loss(logits, *target)`, shaped like x.

    Raises InvalidInput if autograd cannot compute the gradient of the logits with respect to x.
    """
    if isinstance(model, Rewritten) and model.chain is not None:
        return model.logits_and_gradient(x.detach(), loss, *target)
    if isinstance(model, Graphed):
        return model.logits_and_gradient(_by_autograd, x.detach(), loss, *target)
    return _by_autograd(model, x, loss, *target)


def _by_autograd(model: nn.Module, x: Tensor, loss: Callable[..., Tensor], *target: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        if not logits.requires_grad:
            raise InvalidInput(_NO_GRADIENT)
        value = loss(logits, *target).sum()
        try:
            (grad,) = torch.autograd.grad(value, x, allow_unused=True)
        except (torch.OutOfMemoryError, FairbenchError):
            raise
        except RuntimeError as error:  # an operation without a derivative, or a graph that the model used up itself
            line = str(error).strip().partition("\n")[0]
            raise InvalidInput(f"{_NO_GRADIENT}: autograd says: {line}") from error
    if grad is None:  # the logits' graph ends inside the model, as where it optimises its input
        raise InvalidInput(_NO_GRADIENT)
    return logits.detach(), grad
