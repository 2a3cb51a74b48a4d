"""The model under attack: in evaluation mode and float32 during the evaluation, and restored afterwards."""

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

# Modes, precision and the code of pyautoattack are global: one thread at a time holds a model.
_lock = threading.RLock()
# The default dtype of the caller's code, while attacks run with float32.
callers_dtype: ContextVar[torch.dtype] = ContextVar("default_dtype", default=torch.float32)


@contextmanager
def held(model: nn.Module, device: str | torch.device | None = None) -> Iterator[torch.device]:
    """Move a model to a device (None: its own), in eval mode, frozen and in full precision, and yield the device.

    On exit the model is back on its device, and its modes, gradients and buffers are restored. Threads wait for each
    other. Raises InvalidInput for an unavailable device, and for a model without weights or with weights on several
    devices.
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
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        raise InvalidInput(f"device {str(device)!r}: {str(error).splitlines()[0]}") from None
    if where.type == "meta":
        raise InvalidInput("device 'meta': holds no numbers; the model would lose its weights there")
    try:
        model.to(where)
        yield where
    finally:
        if homes:
            model.to(homes[0])


@contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    """Restore buffers that a forward pass in eval mode should not change, such as counters and running averages."""
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
                module._buffers[name] = buffer  # a scripted module keeps its tensor, and returns a new object each time


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Disable implicit precision below float32: autocast, and TF32 and bfloat16 inside matrix products."""
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
    """Let attacks create float32 numbers, whatever the caller's default dtype is."""
    callers = torch.get_default_dtype()  # float32 inside another `held`
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
