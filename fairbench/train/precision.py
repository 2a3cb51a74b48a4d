"""The arithmetic of training: float64, or bfloat16 by autocast, where the recipe says so, and TF32 for float32 on CUDA.

Evaluation has none of this: verdicts are those of the plain float32 model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from fairbench.kernels import using
from fairbench.suites.spec import Precision

__all__ = ["arithmetic", "autocast", "describe_precision", "float32_network", "tensor_cores", "widened"]


@contextmanager
def arithmetic(precision: Precision) -> Iterator[None]:
    """Compute in float64 inside the block where `precision` says so: what is float32 otherwise is float64 there.

    That holds for images, random numbers, losses, class-wise state and a method's own tensors, by the default type of
    new tensors and by giving float64 to code that asks for float32. Kernels are the reference's.
    """
    if precision != "float64":
        yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with using("reference"), _Double():
            yield
    finally:
        torch.set_default_dtype(before)


class _Double(TorchFunctionMode):
    """Reads float32 as float64: losses say `.float()` to leave bfloat16 behind, which must not round float64."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return func(*map(_read, args), **{name: _read(value) for name, value in (kwargs or {}).items()})


def _read(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def widened(model: nn.Module, precision: Precision) -> nn.Module:
    """Return the network that training computes with: a copy in float64 where `precision` says so, else itself."""
    return deepcopy(model).double() if precision == "float64" else model


def float32_network(model: nn.Module, precision: Precision) -> nn.Module:
    """Return the float32 network that is tested and saved: a copy where training's is in float64, else itself."""
    return deepcopy(model).float() if precision == "float64" else model


def autocast(device: torch.device, precision: Precision, *, cached: bool = True) -> torch.autocast:
    """Run forward passes in bfloat16 where `precision` says so; a CUDA graph must not keep the cast weights."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=cached)


@contextmanager
def tensor_cores(device: torch.device) -> Iterator[None]:
    """Let float32 convolutions and matrix products on CUDA round their factors to TF32; elsewhere nothing changes."""
    if device.type != "cuda":
        yield
        return
    backends: Any = torch.backends
    settings = (backends.cudnn.conv, backends.cuda.matmul)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "tf32"
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


def describe_precision(device: torch.device, precision: Precision) -> str:
    """Name the arithmetic for a run's record: the precision, and `+tf32` where float32 products are rounded."""
    return f"{precision}+tf32" if device.type == "cuda" and precision != "float64" else precision
