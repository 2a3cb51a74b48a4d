"""The model under attack: held still while it is looked at, and given back as it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from fairbench.attacks.gradient import frozen
from fairbench.errors import InvalidInput

__all__ = ["callers_dtype", "default_dtype", "held"]

# Modes, precision and the code of pyautoattack are shared by all threads: one thread at a time holds a model.
_lock = threading.RLock()
# What the caller's own code takes for the default type of numbers, while attacks run with float32.
callers_dtype: ContextVar[torch.dtype] = ContextVar("default_dtype", default=torch.float32)


@contextmanager
def held(model: nn.Module, device: str | torch.device | None = None) -> Iterator[torch.device]:
    """Move a model to a device, in eval mode, frozen and exact, and yield the device; None is where the model is.

    On exit the model is back where it was, and its flags, gradients and buffers are as they were. Threads wait for each
    other. Raises InvalidInput for a device that is not there, and for a model that has no weights or has them in
    several places.
    """
    with (
        _lock,
        torch.inference_mode(False),
        _placed(model, device) as where,
        _same_buffers(model),
        frozen(model),
        _full_precision(where),
        _float32_by_default(),
    ):
        yield where


@contextmanager
def _placed(model: nn.Module, device: str | torch.device | None) -> Iterator[torch.device]:
    if any(is_lazy(tensor) for tensor in [*model.parameters(), *model.buffers()]):
        raise InvalidInput("the model has lazy layers without weights: show it an image, and load its weights")
    homes = list(dict.fromkeys(str(tensor.device) for tensor in [*model.parameters(), *model.buffers()]))
    if "meta" in homes:
        raise InvalidInput("the model has no weights: it is on the meta device")
    if any(tensor.is_inference() for tensor in [*model.parameters(), *model.buffers()]):
        raise InvalidInput(
            "the model's weights were made in torch.inference_mode(), where autograd cannot use them: make the model "
            "outside of it, and load its weights there"
        )
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
            if getattr(module, name) is not buffer and not isinstance(module, torch.jit.ScriptModule):
                module._buffers[name] = buffer  # scripts keep the tensor, and hand out others for it


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


@contextmanager
def _float32_by_default() -> Iterator[None]:
    """Let attacks make float32 numbers, whatever the caller's default is."""
    callers = torch.get_default_dtype()  # float32 where another `held` is around this one
    token = callers_dtype.set(callers_dtype.get() if callers == torch.float32 else callers)
    try:
        with default_dtype(torch.float32):
            yield
    finally:
        callers_dtype.reset(token)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Give new tensors another default type inside the block."""
    before = torch.get_default_dtype()
    if before == dtype:
        yield
        return
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
