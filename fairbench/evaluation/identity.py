"""What identifies an evaluation, as its page states it: weights, data, command and settings."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from fairbench.data.dataset import arrays_hash
from fairbench.evaluation.pixels import as_labels
from fairbench.models.checkpoint import weights_hash

__all__ = ["call_text", "data_hash", "identity"]

_ROUNDING = 1e-6
_BATCH = 256  # images that are converted at once


def identity(
    network: nn.Module,
    data: str,
    *,
    command: str,
    engine: str,
    device: str | torch.device | None,
    seed: int,
    batch_size: int,
) -> dict[str, str]:
    """Return what identifies an evaluation, by name; `data` is the hash of its images and labels.

    If `device` is None, the device of the weights is named. A network whose state cannot be hashed, as that of
    some quantised modules, is said to be without a hash.
    """
    state = network.state_dict()
    try:
        weights = f"SHA-256 {weights_hash(network)}" if state else "none: the model has no parameters"
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        weights = "no hash: the state holds more than plain tensors"
    home = next((value.device for value in state.values() if isinstance(value, Tensor)), "cpu")
    return {
        "weights": weights,
        "data hash": f"SHA-256 {data}",
        **({"command": command} if command else {}),
        "settings": f"device {device or home}, engine {engine}, seed {seed}, batch size {batch_size}",
    }


def data_hash(images: Tensor, labels: ArrayLike, class_names: tuple[str, ...]) -> str:
    """Return the sha256 hex of images [N,C,H,W] with their labels and class names.

    Images of 8 bits, as uint8 or as multiples of 1/255, have the hash that `content_hash` gives the dataset.
    """
    batches = [_grey_levels(batch) for batch in torch.split(images, _BATCH)]
    grey = [batch for batch in batches if batch is not None]
    pixels = torch.cat(grey) if len(grey) == len(batches) else images.detach().cpu()
    count, channels, height, width = pixels.shape
    flat = pixels.permute(0, 2, 3, 1).contiguous().reshape(-1).view(torch.uint8).numpy()
    stored = flat.reshape(count, height, width, channels * pixels.element_size())
    return arrays_hash(class_names, (stored, as_labels(labels, count)))


def call_text(model: Any, dataset: Any, **settings: Any) -> str:
    """Write a call of `fairbench.evaluate` with the settings that are not None; an object appears as its type."""
    given = [repr(value) if isinstance(value, str) else f"<{type(value).__name__}>" for value in (model, dataset)]
    given += [f"{name}={value!r}" for name, value in settings.items() if value is not None]
    return f"fairbench.evaluate({', '.join(given)})"


def _grey_levels(images: Tensor) -> Tensor | None:
    """Return images as uint8, None for those with values between the grey levels.

    Values within 1e-6 of a grey level count as that level: loaders that multiply by 1/255, or undo a normalisation,
    differ that much from loaders that divide.
    """
    pixels = images.detach().cpu()
    if pixels.dtype == torch.uint8:
        return pixels
    grey = (pixels.float() * 255).round().to(torch.uint8)
    between = (grey.float() / 255 - pixels.float()).abs() > _ROUNDING
    return None if between.any() or pixels.isnan().any() else grey
