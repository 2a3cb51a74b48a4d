"""DenseNet-BC with 100 layers and growth rate 12, for small images.

Source: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, section 3 and table 2.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from fairbench.registration import register_model

__all__ = ["DenseLayer", "densenet_bc_100"]

DEPTH, GROWTH, COMPRESSION = 100, 12, 0.5


class DenseLayer(nn.Module):
    """A bottleneck of 4 `growth` channels and a 3x3 convolution, whose `growth` channels are appended to the input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, inputs + growth, H, W]: x and the new channels."""
        new = self.conv2(self.bn2(self.conv1(self.bn1(x).relu())).relu())
        return torch.cat([x, new], dim=1)


@register_model(
    "densenet-bc-100", summary="DenseNet-BC, 100 layers, growth 12: 0.77 M parameters, 288 M multiply-adds at 32x32"
)
def densenet_bc_100(num_classes: int, shape: tuple[int, int, int]) -> nn.Sequential:
    """Three dense blocks of sixteen layers, with transitions (1x1 convolutions) that halve channels and resolution."""
    channels = 2 * GROWTH
    layers = OrderedDict[str, nn.Module](conv1=nn.Conv2d(shape[0], channels, 3, padding=1, bias=False))
    for number in (1, 2, 3):
        block = nn.Sequential()
        for _ in range((DEPTH - 4) // 6):
            block.append(DenseLayer(channels, GROWTH))
            channels += GROWTH
        layers[f"block{number}"] = block
        if number < 3:
            kept = int(channels * COMPRESSION)
            layers[f"transition{number}"] = nn.Sequential(
                nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, kept, 1, bias=False), nn.AvgPool2d(2)
            )
            channels = kept
    head = {"bn": nn.BatchNorm2d(channels), "relu": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential(layers | head | {"linear": nn.Linear(channels, num_classes)})
