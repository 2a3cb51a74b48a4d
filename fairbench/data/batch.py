"""A batch of training samples, which the loader yields and a method receives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """Training samples: x float32 [B,C,H,W] in [0,1], y int64 [B], index int64 [B] (position in the training split)."""

    x: Tensor
    y: Tensor
    index: Tensor
