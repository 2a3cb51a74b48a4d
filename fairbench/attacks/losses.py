"""Losses that attacks maximise: from logits [B, C] and a target, labels [B] or probabilities [B, C], to one value a
sample.

An adaptive attack uses a loss written for its model: `@register_loss("mine")` on a function from logits [B,C] and
labels [B] to [B], or the location `module:callable` of such a function.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Annotated

from pydantic import AfterValidator
from torch import OutOfMemoryError, Tensor, is_grad_enabled
from torch.cuda import is_current_stream_capturing

from fairbench import registry
from fairbench.errors import FairbenchError, InvalidInput
from fairbench.kernels import cw_margin, dlr_margin
from fairbench.losses import cross_entropy, kl_divergence
from fairbench.plugins.calls import import_callable
from fairbench.plugins.source import own_files
from fairbench.registration import register_loss

__all__ = ["Loss", "LossName", "ce", "cw_loss", "dlr", "find_loss", "kl", "targeted_dlr"]

Loss = Callable[[Tensor, Tensor], Tensor]

_TINY = 1e-12


@register_loss("ce", summary="cross-entropy with the true class")
def ce(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy with labels y int64 [B]; returns [B]."""
    return cross_entropy(logits, y)


@register_loss("cw", summary="Carlini-Wagner margin: the largest wrong logit minus the true one")
def cw_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Carlini-Wagner margin: the largest wrong logit minus the true one, positive once broken; returns [B].

    No confidence cap: PGD wants a gradient at every iterate. Source: Carlini and Wagner, "Towards Evaluating the
    Robustness of Neural Networks", S&P 2017, objective f_6 as PGD codes use it.
    """
    return cw_margin(logits, y)


@register_loss("kl", summary="divergence from the probabilities of the clean image")
def kl(logits: Tensor, probabilities: Tensor) -> Tensor:
    """KL(probabilities || softmax(logits)), probabilities [B, C] those of the clean image (TRADES); returns [B]."""
    return kl_divergence(probabilities, logits)


@register_loss("dlr", summary="difference of logits ratio: the margin over the first minus the third logit")
def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio: the margin of `cw_loss` over z_1 - z_3, the largest minus the third; returns [B].

    Below three classes there is no third and the margin stands alone. Source: Croce and Hein, "Reliable evaluation of
    adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020, eq. 6.
    """
    return dlr_margin(logits, y)


def targeted_dlr(logits: Tensor, aim: Tensor) -> Tensor:
    """The targeted DLR loss, which grows as a target class overtakes the true one; aim int64 [B,2] holds labels and
    targets.

    Returns (z_t - z_y) / (z_1 - (z_3 + z_4) / 2) as [B], and below four classes only the margin (same paper, eq. 7).
    """
    true, target = logits.gather(1, aim).unbind(1)
    if logits.shape[1] < 4:
        return target - true
    top = logits.topk(4, dim=1).values
    return (target - true) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


def find_loss(loss: str | Loss) -> Loss:
    """Return the loss of a registered name or of `module:callable`; a callable is returned unchanged.

    Raises UnknownName for an unknown name. The returned loss raises InvalidInput if its value is not one number an
    image, has no gradient, or, for a loss that is not part of fairbench, if a value or a gradient is NaN: an attack
    that steps by signs would stand still there, and its images would count as robust.
    """
    if not isinstance(loss, str):
        return loss
    function: Loss = import_callable("loss", loss) if ":" in loss else registry.losses.get(loss)

    foreign = bool(own_files([function]))

    @wraps(function)
    def checked(logits: Tensor, y: Tensor) -> Tensor:
        try:
            value = function(logits, y)
        except (FairbenchError, OutOfMemoryError):
            raise
        except Exception as error:
            raise InvalidInput(f"loss {loss!r}: {type(error).__name__}: {error}") from error
        if not isinstance(value, Tensor) or value.shape != logits.shape[:1]:
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InvalidInput(f"loss {loss!r}: must return a number for each image, [{len(logits)}], not {found}")
        if is_grad_enabled() and not value.requires_grad:
            raise InvalidInput(f"loss {loss!r}: has no gradient with respect to the logits")
        if foreign and not _capturing(value):
            _refuse_nan(loss, value)
            if value.requires_grad:
                logits.register_hook(partial(_refuse_nan, loss))  # type: ignore[no-untyped-call]
        return value

    return checked


def _refuse_nan(loss: str, value: Tensor) -> None:
    if value.isnan().any():
        raise InvalidInput(f"loss {loss!r}: its value or its gradient is NaN")


def _capturing(value: Tensor) -> bool:
    """Whether a CUDA graph is recorded, in which no value can be looked at."""
    return value.is_cuda and is_current_stream_capturing()


def _known(loss: str) -> str:
    find_loss(loss)
    return loss


LossName = Annotated[str, AfterValidator(_known)]
