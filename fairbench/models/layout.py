"""The memory layout in which a network is trained and attacked."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["place"]


def place(model: nn.Module, device: str | torch.device, shape: tuple[int, int, int]) -> nn.Module:
    """Move a network for images of `shape` (C, H, W) to a device in channels-last memory, and return it.

    Convolutions are faster there. A network that fails on it, because it flattens with `x.view(len(x), -1)`, keeps
    torch's own layout, and each of its inputs is made contiguous.
    """
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    channels, height, width = shape
    images = torch.zeros(2, height, width, channels, device=device).permute(0, 3, 1, 2)  # strided as those of a loader
    training = model.training
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            model.eval()(images)
        except RuntimeError:
            model.to(memory_format=torch.contiguous_format)
            model.register_forward_pre_hook(_contiguous)
    return model.train(training)


def _contiguous(_model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    # A copy, because torch calls images of one channel contiguous whatever their strides are.
    return tuple(
        value.clone(memory_format=torch.contiguous_format) if isinstance(value, torch.Tensor) else value
        for value in inputs
    )
