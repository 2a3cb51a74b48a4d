"""Three convolutions, enough for the 8x8 digits and fast on one core."""

from __future__ import annotations

from torch import nn

from fairbench.errors import InvalidInput
from fairbench.registration import register_model

__all__ = ["small_cnn"]


@register_model("small-cnn", summary="three 3x3 convolutions, 16 to 32 channels, for 8x8 to 32x32 images")
def small_cnn(
    num_classes: int, shape: tuple[int, int, int], *, width: int = 16, batchnorm: bool = False
) -> nn.Sequential:
    """Convolutions of `width`, 2 `width` and 2 `width` channels, the last two of stride 2, then one linear layer."""
    if width < 1:
        raise InvalidInput(f"small-cnn: width must be at least 1, got {width}")
    channels, height, side = shape
    layers: list[nn.Module] = []
    for out, stride in ((width, 1), (2 * width, 2), (2 * width, 2)):
        layers.append(nn.Conv2d(channels, out, 3, stride, padding=1, bias=not batchnorm))
        if batchnorm:
            layers.append(nn.BatchNorm2d(out))
        layers.append(nn.ReLU())
        channels, height, side = out, -(-height // stride), -(-side // stride)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * side, num_classes))
