"""TF32 for the products of a copy on CUDA, and nothing else: verdicts are those of the plain float32 model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["rounded_products"]


@contextmanager
def rounded_products(device: torch.device, *, tf32: bool, tuned: bool = False) -> Iterator[None]:
    """Set whether float32 convolutions and matrix products on CUDA round their factors to TF32 inside the block.

    With `tuned`, cuDNN measures its algorithms for each new shape. Other devices do not change. Both settings are those
    of the process, and are restored on exit.
    """
    if device.type != "cuda":
        yield
        return
    backends: Any = torch.backends
    settings = (backends.cudnn.conv, backends.cuda.matmul)
    before, measured = [setting.fp32_precision for setting in settings], backends.cudnn.benchmark
    try:
        for setting in settings:
            setting.fp32_precision = "tf32" if tf32 else "ieee"
        backends.cudnn.benchmark = tuned
        yield
    finally:
        backends.cudnn.benchmark = measured
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision
