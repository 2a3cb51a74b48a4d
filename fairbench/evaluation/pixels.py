"""Images and labels as users have them, and as a model takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fairbench.errors import InvalidInput

__all__ = ["Pixels", "as_input", "as_labels", "as_tensor"]

Pixels = NDArray[Any] | Tensor


def as_tensor(images: Pixels) -> Tensor:
    """Return images as a tensor [N,C,H,W], uint8 or float in [0,1]; a NumPy array keeps its layout in memory.

    images are uint8, or float in [0,1]; NumPy arrays [N,H,W,C], tensors [N,C,H,W]. Raises InvalidInput for others.
    """
    if isinstance(images, Tensor):
        tensor = images.detach()
    else:
        array = np.asarray(images)
        if array.dtype.kind not in "uf" or array.ndim != 4:
            raise InvalidInput(f"images must be uint8 or float [N,H,W,C], not {array.dtype} {list(array.shape)}")
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy()).permute(0, 3, 1, 2)
    if tensor.dim() != 4 or tensor.numel() == 0:
        raise InvalidInput(f"images must be a tensor [N,C,H,W] with images in it, not {list(tensor.shape)}")
    if tensor.dtype == torch.uint8:
        return tensor
    if not tensor.is_floating_point():
        raise InvalidInput(f"images must be uint8, or float in [0,1], not {tensor.dtype}")
    outside = ~((tensor >= 0) & (tensor <= 1)).flatten(1).all(1)
    if outside.any():
        raise InvalidInput(f"image {int(outside.nonzero()[0])} has pixels outside [0,1] or NaN; 0..255 must be uint8")
    return tensor


def as_labels(labels: ArrayLike | Tensor, count: int) -> NDArray[np.int64]:
    """Return int64 [count]; raises InvalidInput unless labels are so many whole numbers, none negative."""
    array = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.dtype.kind not in "iu" or array.shape != (count,):
        raise InvalidInput(f"{count} images need {count} whole-number labels, not {array.dtype} {list(array.shape)}")
    if array.min() < 0:
        raise InvalidInput(f"label {array.min()} at {array.argmin()} is negative")
    return array.astype(np.int64)


def as_input(pixels: Tensor, device: torch.device) -> Tensor:
    """Return float32 [B,C,H,W] in [0,1] on the device; uint8 travels there before it grows fourfold."""
    moved = pixels.to(device)
    if moved.dtype == torch.uint8:
        return moved.float().div_(255.0)
    return moved.float().clone() if moved.is_inference() else moved.float()
