"""The model under attack: held still and in float32 while it is looked at, and given back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fairbench.attacks.gradient import frozen
from fairbench.errors import InvalidInput

__all__ = ["count_classes", "held", "logits"]


@contextmanager
def held(model: nn.Module, device: str | torch.device | None = None) -> Iterator[torch.device]:
    """Move a model to a device, in eval mode, frozen and exact, and yield the device; None is where the model is.

    On exit the model is back where it was, and its flags, gradients and buffers are as they were. Raises InvalidInput
    for a device that is not there, and for a model that has no weights or has them in several places.
    """
    with (
        torch.inference_mode(False),
        _placed(model, device) as where,
        _same_buffers(model),
        frozen(model),
        _full_precision(where),
    ):
        yield where


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Return a model's logits [B,C] of images [B,...], C at least 2; raises InvalidInput unless that is what they are.

    Where logits are not finite too: NaN is no class.
    """
    with torch.no_grad():
        found: Any = model(x)
    if not isinstance(found, Tensor):
        raise InvalidInput(f"the model returns a {type(found).__name__}; wrap it in a module that returns its logits")
    if found.shape[:-1] != x.shape[:1] or found.shape[-1] < 2:
        raise InvalidInput(f"the model must return logits [N,C] with C at least 2, not {list(found.shape)}")
    if not found.isfinite().all():
        raise InvalidInput("the model's logits are not finite: it has NaN or infinite weights, or overflows")
    return found


def count_classes(model: nn.Module, x: Tensor) -> int:
    """Return the number of logits, from a first look at some images; raises InvalidInput where the two do not fit."""
    try:
        return logits(model, x).shape[1]
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shape = "x".join(str(side) for side in x.shape[1:])
        raise InvalidInput(f"the model cannot take float32 images of {shape}: {str(error).splitlines()[0]}") from error


@contextmanager
def _placed(model: nn.Module, device: str | torch.device | None) -> Iterator[torch.device]:
    homes = list(dict.fromkeys(str(tensor.device) for tensor in [*model.parameters(), *model.buffers()]))
    if "meta" in homes:
        raise InvalidInput("the model has no weights: it is on the meta device")
    if device is None:
        yield torch.device(homes[0]) if homes else torch.device("cpu")
        return
    if len(homes) > 1:
        raise InvalidInput(f"the model is spread over {', '.join(homes)} and cannot be moved: leave out device")
    try:
        where = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise InvalidInput(f"device {str(device)!r}: {str(error).splitlines()[0]}") from None
    try:
        model.to(where)
        yield where
    finally:
        if homes:
            model.to(homes[0])


@contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    """Undo what a forward in eval mode should not do: count, or go on averaging."""
    before = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in before:
            if not torch.equal(buffer, value):
                buffer.copy_(value)
            module._buffers[name] = buffer


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Switch off what rounds below float32 behind a model's back: autocast, and TF32 and bfloat16 inside products."""
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    settings = [cudnn.conv, cudnn.rnn, backends.cuda.matmul, mkldnn.conv, mkldnn.matmul]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision
