"""The arithmetic of training: float64 or bfloat16 by autocast if the recipe says so, and TF32 for float32 on CUDA.

Evaluation uses none of this: verdicts are those of the plain float32 model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from fairbench.copies import rounded_products
from fairbench.kernels import using
from fairbench.suites.sections import Precision

__all__ = ["arithmetic", "autocast", "describe_precision", "float32_network", "tensor_cores", "widened"]


@contextmanager
def arithmetic(precision: Precision) -> Iterator[None]:
    """Compute in float64 inside the block if `precision` is float64: every tensor that is float32 otherwise is float64.

    That covers images, random numbers, losses, class-wise state and a method's own tensors. The default dtype of new
    tensors is float64, and code that asks for float32 receives float64. Kernels use the reference implementation.
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
    """Reads float32 as float64: losses call `.float()` to leave bfloat16, which must not round float64."""

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
    """Return the network that training computes with: a copy in float64 for that precision, otherwise itself."""
    return deepcopy(model).double() if precision == "float64" else model


def float32_network(model: nn.Module, precision: Precision) -> nn.Module:
    """Return the network that is tested and saved: a float32 copy of a float64 network, any other network itself."""
    return deepcopy(model).float() if precision == "float64" else model


def autocast(device: torch.device, precision: Precision, *, cached: bool = True) -> torch.autocast:
    """Run forward passes in bfloat16 for precision bf16; with `cached` False a CUDA graph keeps no cast weights."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=cached)


def tensor_cores(device: torch.device) -> AbstractContextManager[None]:
    """Let float32 convolutions and matrix products on CUDA round their factors to TF32, and cuDNN measure which
    algorithm is fastest for each shape; other devices do not change.
    """
    return rounded_products(device, tf32=True, tuned=True)


def describe_precision(device: torch.device, precision: Precision) -> str:
    """Name the arithmetic for a run's record: the precision, and `+tf32` if float32 products are rounded."""
    return f"{precision}+tf32" if device.type == "cuda" and precision != "float64" else precision
