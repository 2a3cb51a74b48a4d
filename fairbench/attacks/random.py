"""Random numbers that belong to an image: the same whatever batch, order or device it is attacked in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fairbench.kernels import philox_normal, philox_uniform

__all__ = ["ImageRNG"]

# Augmentation draws from the lower half of the streams; uniform and normal numbers must not share bits either.
_UNIFORM = 2 << 30
_NORMAL = 3 << 30


@dataclass(frozen=True, eq=False)
class ImageRNG:
    """Random numbers of a batch of images: those of image b depend on (seed, index[b], stream, restart) alone.

    `index` is int64 [B], the images' positions in their split, on the device the numbers are wanted on. `stream` in
    [0, 2^30) tells apart what draws for the same image: evaluation uses 0, training its epoch + 1.
    """

    seed: int
    index: Tensor
    stream: int = 0

    def uniform(self, shape: Sequence[int], restart: int = 0) -> Tensor:
        """Return float32 of `shape` [B, ...] in [0, 1)."""
        numel, stream = math.prod(shape[1:]), _UNIFORM + self.stream
        return philox_uniform(self.seed, self.index, numel, stream=stream, restart=restart).reshape(*shape)

    def normal(self, shape: Sequence[int], restart: int = 0) -> Tensor:
        """Return standard normal float32 of `shape` [B, ...]."""
        numel, stream = math.prod(shape[1:]), _NORMAL + self.stream
        return philox_normal(self.seed, self.index, numel, stream=stream, restart=restart).reshape(*shape)
