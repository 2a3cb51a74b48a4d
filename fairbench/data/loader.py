"""Batches from uint8 images on the device: shuffled, cropped and flipped there, without worker processes.

Every random choice depends on the seed, the epoch and a position (of the image in the split, or of the draw in the
epoch when drawing with replacement), and is independent of batch size, order and device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fairbench.data.batch import Batch
from fairbench.errors import InvalidInput
from fairbench.kernels import philox_uniform

__all__ = ["Augmentation", "Loader", "augment", "draw_by_class", "to_unit"]

# The philox streams of augmentation ("crop" in ASCII) and of draws with replacement ("draw"). Attacks use streams from
# 2^31 on.
STREAM = 0x63726F70
DRAWS = 0x64726177


@dataclass(frozen=True)
class Augmentation:
    """A random crop after padding by `crop_padding` pixels a side and, with `flip`, a mirror image half of the time."""

    crop_padding: int = 4
    flip: bool = True
    pad_mode: Literal["constant", "reflect"] = "constant"

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise InvalidInput(f"crop_padding must not be negative, got {self.crop_padding}")
        if self.pad_mode not in ("constant", "reflect"):
            raise InvalidInput(f"pad_mode must be 'constant' or 'reflect', got {self.pad_mode!r}")


class Loader:
    """Training images on a device, epoch by epoch.

    `images` uint8 [N,H,W,C]; `labels` int64 [N]; `index` int64 [N], the images' positions in the training split, 0..N-1
    by default; `num_classes`, one more than the largest label by default; with `augment` None images are not augmented.
    A single image that is left at the end of an epoch joins the batch before it, because BatchNorm has no statistics of
    one value. Raises InvalidInput if these do not fit together or a shuffled epoch would have no batch.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        *,
        index: NDArray[np.int64] | None = None,
        device: torch.device | str,
        batch_size: int,
        seed: int,
        augment: Augmentation | None,
        drop_last: bool = False,
        num_classes: int | None = None,
    ) -> None:
        index = np.arange(len(labels)) if index is None else index
        if not len(images) == len(labels) == len(index):
            raise InvalidInput(f"{len(images)} images, {len(labels)} labels and {len(index)} positions do not match")
        if images.dtype != np.uint8 or images.ndim != 4:
            raise InvalidInput(f"images must be uint8 [N,H,W,C], got {images.dtype} {list(images.shape)}")
        if batch_size < 1 or seed < 0:
            raise InvalidInput(f"batch_size must be positive and seed not negative, got {batch_size} and {seed}")
        if augment and augment.pad_mode == "reflect" and augment.crop_padding >= min(images.shape[1:3]):
            raise InvalidInput(f"reflecting {augment.crop_padding} pixels needs larger images than {images.shape[1:3]}")
        self.device = torch.device(device)
        self.batch_size, self.seed, self.augment, self.drop_last = batch_size, seed, augment, drop_last
        self._images = torch.tensor(images, device=self.device).permute(0, 3, 1, 2).contiguous()
        self._labels = torch.tensor(labels, dtype=torch.int64, device=self.device)
        self._index = torch.tensor(index, dtype=torch.int64, device=self.device)
        self.class_counts = torch.bincount(self._labels, minlength=num_classes or 0)
        if len(self) == 0:
            raise InvalidInput(f"{len(labels)} images make no batch of {batch_size}")

    def __len__(self) -> int:
        """Return the number of batches in a shuffled epoch."""
        images = len(self._labels)
        whole, rest = divmod(images, self.batch_size)
        return whole if self.drop_last or (rest == 1 and whole) else whole + (rest > 0)

    def epoch(self, number: int, sampling: Callable[[], Tensor | None] = lambda: None) -> Iterator[Batch]:
        """Yield the augmented batches of an epoch: every image once, shuffled by (seed, number).

        `sampling` is called before each batch. If it returns class probabilities float [C], the batch is drawn with
        replacement from them; an epoch has as many draws as images. An image that is drawn twice is augmented twice.
        """
        order = torch.from_numpy(_permutation(len(self._labels), self.seed, number)).to(self.device)
        drawn = len(self) * self.batch_size if self.drop_last else len(order)
        sizes = [self.batch_size] * (len(self) - 1)
        for places in torch.split(torch.arange(drawn, device=self.device), [*sizes, drawn - sum(sizes)]):
            probabilities = sampling()
            if probabilities is None:
                rows = order[places]
                key = self._index[rows]
            else:
                rows = draw_by_class(self._labels, probabilities, places, seed=self.seed, epoch=number)
                key = places
            x = to_unit(self._images[rows])
            if self.augment is not None:
                x = augment(x, key, self.augment, seed=self.seed, epoch=number)
            yield Batch(x, self._labels[rows], self._index[rows])

    def ordered(self) -> Iterator[Batch]:
        """Yield every image once, in order and without augmentation; `drop_last` does not apply."""
        for start in range(0, len(self._labels), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield Batch(to_unit(self._images[rows]), self._labels[rows], self._index[rows])


def draw_by_class(labels: Tensor, probabilities: Tensor, places: Tensor, *, seed: int, epoch: int) -> Tensor:
    """Draw images with replacement: a class with probabilities float [C], then one of its images uniformly.

    `labels` int64 [N]; `places` int64 [B], each draw's position in the epoch, which determines it together with (seed,
    epoch); returns rows of `labels`, int64 [B]. The probabilities need not sum to 1, and a class without images is
    never drawn. Nothing syncs with the host.
    """
    counts = torch.zeros_like(probabilities, dtype=torch.int64).index_add_(0, labels, torch.ones_like(labels))
    by_class, first = torch.argsort(labels, stable=True), counts.cumsum(0) - counts
    cumulative = (probabilities.double() * (counts > 0)).cumsum(0)
    draws = philox_uniform(seed, places, 2, stream=DRAWS, restart=epoch).double()
    drawn = (draws[:, :1] >= cumulative / cumulative[-1]).sum(dim=1)
    return by_class[first[drawn] + (draws[:, 1] * counts[drawn]).long()]


def to_unit(images: Tensor) -> Tensor:
    """Convert uint8 grey levels to float32 in [0, 1], with the same bits on every device."""
    # The divisor is a tensor, because CUDA multiplies by the rounded reciprocal of a Python number.
    return images.to(torch.float32) / torch.full((), 255.0, device=images.device)


def augment(x: Tensor, index: Tensor, how: Augmentation, *, seed: int, epoch: int) -> Tensor:
    """Crop and flip x float [B,C,H,W]; the crop of an image depends on (seed, epoch, its index) only."""
    draws = philox_uniform(seed, index, 3, stream=STREAM, restart=epoch)
    if how.crop_padding:
        height, width = x.shape[2:]
        padded = F.pad(x, [how.crop_padding] * 4, mode=how.pad_mode)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view [B, C, 2p+1, 2p+1, H, W]
        top, left = (draws[:, :2] * (2 * how.crop_padding + 1)).long().unbind(1)
        x = windows[torch.arange(len(x), device=x.device), :, top, left]
    if how.flip:
        x = torch.where((draws[:, 2] < 0.5)[:, None, None, None], x.flip(3), x)
    return x


def _permutation(length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Shuffle 0..length-1 by raw bits, the only random stream that numpy promises to keep."""
    bits = np.random.PCG64(np.random.SeedSequence((seed, epoch))).random_raw(length)
    return np.argsort(bits, kind="stable")
