"""Random numbers tied to an image by its position: the same for any batch size and device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fairbench.kernels import philox_normal, philox_uniform

__all__ = ["ImageRNG"]

# Augmentation uses the lower half of the streams. Uniform and normal numbers have streams of their own, too.
_UNIFORM = 2 << 30
_NORMAL = 3 << 30


@dataclass(frozen=True, eq=False)
class ImageRNG:
    """Random numbers of a batch of images: those of image b depend on (seed, index[b], stream, restart) only.

    `index` is int64 [B] on the device where the numbers are wanted: in training the images' positions in the training
    split, in an evaluation those among the images that are attacked. `stream` in [0, 2^30) separates uses of the same
    image: evaluation has 0, training its epoch + 1.
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
