"""The arithmetic of training: bfloat16 by autocast where the recipe says so, and TF32 for float32 on CUDA.

Evaluation has none of this: verdicts are those of the plain float32 model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

__all__ = ["autocast", "describe", "tensor_cores"]


def autocast(device: torch.device, precision: Literal["float32", "bf16"], *, cached: bool = True) -> torch.autocast:
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


def describe(device: torch.device, precision: Literal["float32", "bf16"]) -> str:
    """Name the arithmetic for a run's record: float32 or bf16, and `+tf32` where float32 products are rounded."""
    return f"{precision}+tf32" if device.type == "cuda" else precision
