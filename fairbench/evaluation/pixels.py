"""Images and labels in the formats that users hold them in, converted to the format that a model accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fairbench.data.dataset import MAX_BYTES
from fairbench.errors import FairbenchError, InvalidInput

__all__ = ["Pixels", "arranged", "as_input", "as_labels", "as_tensor", "gathered"]

Pixels = NDArray[Any] | Tensor

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_CHANNELS = (1, 3)
_BATCH = 4  # axes of a batch of images
# Modes of PIL pictures whose numbers are indices of a palette, or other coordinates of colours than RGB.
_CODED = ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV")


def as_tensor(images: Pixels) -> Tensor:
    """Return images as a tensor [N,C,H,W], uint8 or float in [0,1]; a NumPy array keeps its memory layout.

    `images` are uint8, or float in [0,1]: NumPy arrays [N,H,W,C], tensors [N,C,H,W], or a list of single images. Raises
    InvalidInput for any other type or shape.
    """
    images = _stacked(images)
    if isinstance(images, Tensor):
        tensor = images.detach()
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
            raise InvalidInput(f"images must be a plain tensor with values in it, not a {_kind(tensor)} one")
    else:
        tensor = _from_numpy(images)
    if tensor.dim() != 4 or tensor.numel() == 0:
        raise InvalidInput(f"images must be a tensor [N,C,H,W] with images in it, not {list(tensor.shape)}")
    if tensor.dtype == torch.uint8:
        return tensor
    if tensor.dtype not in _FLOATS:
        raise InvalidInput(f"images must be uint8, or float in [0,1], not {tensor.dtype}")
    outside = ~((tensor >= 0) & (tensor <= 1)).flatten(1).all(1)
    if outside.any():
        raise InvalidInput(f"image {int(outside.nonzero()[0])} has pixels outside [0,1] or NaN; 0..255 must be uint8")
    return tensor


def arranged(images: Pixels, accepts: Callable[[Tensor], bool]) -> tuple[Tensor, bool]:
    """Return images as [N,C,H,W] and whether their order of axes was not the documented one.

    The documented order is [N,H,W,C] for NumPy arrays and [N,C,H,W] for tensors. Images have 1 or 3 channels. The other
    order is assumed if only that order gives 1 or 3 channels, or if the model rejects the documented order and accepts
    the other. Raises InvalidInput if neither order gives 1 or 3 channels and the model accepts both, and the errors of
    `as_tensor`.
    """
    images = _stacked(images)
    documented = as_tensor(images)
    # `as_tensor` permuted arrays from [N,H,W,C] and no tensors; the other order undoes or adds the permutation.
    other = documented.permute(0, 3, 1, 2) if isinstance(images, Tensor) else documented.permute(0, 2, 3, 1)
    likely = [tensor.shape[1] in _CHANNELS for tensor in (documented, other)]
    if likely == [True, False] or documented.shape == other.shape:
        return documented, False
    order = [other, documented] if likely == [False, True] else [documented, other]
    accepted = [tensor for tensor in order if accepts(tensor[:2])]
    if len(accepted) == 2 and likely == [False, False]:
        raise InvalidInput(
            f"images of shape {list(images.shape)} have neither 1 nor 3 channels, and the model takes them in either "
            "order of their axes: give NumPy arrays [N,H,W,C] or tensors [N,C,H,W] to a model that has convolutions"
        )
    chosen = accepted[0] if accepted else order[0]
    return chosen, chosen is other


def gathered(dataset: Any) -> tuple[Pixels, Any]:
    """Return the images and labels of a DataLoader, of a torch Dataset, or of any other iterable of pairs.

    Pairs hold an image and a label, or a batch of each, images with four axes; an image is a tensor, a NumPy array or a
    PIL picture. Raises InvalidInput for any other element, and for more than MAX_BYTES of images.
    """
    # torch sets `batch_size` None for a loader with a batch sampler, and both if the dataset returns batches itself.
    collated = isinstance(dataset, torch.utils.data.DataLoader) and dataset.batch_sampler is not None
    images: list[Any] = []
    labels: list[int] = []
    size = 0
    try:
        for pair in _items(dataset):
            if isinstance(pair, Mapping):
                raise TypeError(f"a dictionary of {', '.join(map(repr, pair))}")
            x, y = pair
            batched = collated or getattr(x, "ndim", 0) == _BATCH
            images.extend(x if batched else [x])
            labels.extend(_whole(label) for label in (y if batched else [y]))
            size += getattr(x, "nbytes", 0)
            if size > MAX_BYTES:
                raise InvalidInput(f"the dataset has more than {MAX_BYTES} bytes of images; evaluate a part of it")
    except FairbenchError:
        raise
    except Exception as error:  # errors of the user's dataset
        line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InvalidInput(f"{type(dataset).__name__}: its items must be pairs of image and label: {line}") from error
    return _stacked(images), np.array(labels, dtype=np.int64)


def _whole(label: Any) -> int:
    """Convert a label to an int; raises ValueError for a fraction, as mixed labels have, which `int` would truncate."""
    number = int(label)
    if not isinstance(label, str) and number != label:
        raise ValueError(f"the label {label} is no whole number")
    return number


def as_labels(labels: ArrayLike | Tensor, count: int) -> NDArray[np.int64]:
    """Return labels as int64 [count]; raises InvalidInput unless they are `count` non-negative whole numbers."""
    if isinstance(labels, np.ma.MaskedArray) and np.ma.is_masked(labels):
        raise InvalidInput("labels are a masked array: leave out the images whose labels are masked")
    if isinstance(labels, list | tuple) and labels and all(isinstance(label, Tensor) for label in labels):
        labels = [label.item() if label.numel() == 1 else label.tolist() for label in labels]
    try:
        array = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    except (TypeError, ValueError, RuntimeError) as error:  # bfloat16, ragged lists, tensors without values
        raise InvalidInput(f"labels must be whole numbers: {str(error).splitlines()[0]}") from None
    if array.dtype.kind not in "iu" or array.shape != (count,):
        raise InvalidInput(f"{count} images need {count} whole-number labels, not {array.dtype} {list(array.shape)}")
    if array.min() < 0:
        raise InvalidInput(f"label {array.min()} at {array.argmin()} is negative")
    if int(array.max()) > np.iinfo(np.int64).max:
        raise InvalidInput(f"label {array.max()} at {array.argmax()} is out of range")
    return array.astype(np.int64)


def as_input(pixels: Tensor, device: torch.device) -> Tensor:
    """Return images as float32 [B,C,H,W] in [0,1] on the device, never in the caller's own memory.

    uint8 images are converted on the device, because float32 takes four times the transfer.
    """
    moved = pixels.to(device)
    if moved.dtype == torch.uint8:
        return moved.float().div_(255.0)
    found = moved.float()
    return found.clone() if found is pixels or found.is_inference() else found


def _from_numpy(images: Any) -> Tensor:
    """Convert an array [N,H,W,C] of any memory layout and byte order to a tensor [N,C,H,W]."""
    if isinstance(images, np.ma.MaskedArray) and np.ma.is_masked(images):
        raise InvalidInput("images are a masked array: say what is under its mask, as with images.filled(0)")
    try:
        array = np.asarray(images)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"images are no array: {str(error).splitlines()[0]}") from None
    if array.dtype.kind not in "uf" or array.ndim != 4:
        hint = "; grey images need an axis of one channel, images[..., None]" if array.ndim == 3 else ""
        raise InvalidInput(f"images must be uint8 or float [N,H,W,C], not {array.dtype} {list(array.shape)}{hint}")
    if array.dtype.itemsize > 8:  # torch has no long double
        array = array.astype(np.float64)
    # torch shares memory that is writable, aligned, in the machine's byte order, and has no negative strides.
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    awkward = any(stride < 0 or stride % array.dtype.itemsize for stride in array.strides)
    if awkward or not (array.flags.writeable and array.flags.aligned):
        array = array.copy(order="C" if awkward else "K")
    try:
        return torch.from_numpy(array).permute(0, 3, 1, 2)
    except TypeError as error:
        raise InvalidInput(f"images must be uint8 or float [N,H,W,C]: {error}") from None


def _stacked(images: Any) -> Any:
    """Stack a list of images, all tensors, all arrays or all PIL pictures, into one tensor or array."""
    if not isinstance(images, list | tuple):
        return images
    try:
        if images and all(isinstance(image, Tensor) for image in images):
            return torch.stack([image.detach() for image in images])
        for image in images:
            if getattr(image, "mode", "") in _CODED:
                raise InvalidInput(f"a picture of mode {image.mode} is not in RGB: image.convert('RGB') is")
        arrays = [np.asarray(image) for image in images]
        grey = all(array.ndim == 2 and hasattr(image, "getbands") for array, image in zip(arrays, images, strict=True))
        return np.stack([array[..., None] for array in arrays] if grey else arrays)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidInput(f"images must share one shape and type: {str(error).splitlines()[0]}") from None


def _items(dataset: Any) -> Iterable[Any]:
    """Iterate over a dataset by index up to its length, as a DataLoader does; it may not raise IndexError."""
    if isinstance(dataset, torch.utils.data.Dataset) and hasattr(dataset, "__len__"):
        return (dataset[number] for number in range(len(dataset)))
    found: Iterable[Any] = dataset
    return found


def _kind(tensor: Tensor) -> str:
    if tensor.is_nested:
        return "nested"
    return "quantized" if tensor.is_quantized else "meta" if tensor.is_meta else str(tensor.layout)
