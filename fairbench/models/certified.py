"""Small networks of the literature on certified robustness, whose public weights the suite `zoo-small` evaluates.

Sources: Wong et al., "Scaling provable adversarial defenses", NeurIPS 2018 (the network "small"); Dathathri et al.,
"Enabling certification of verification-agnostic networks via memory-efficient semidefinite programming", NeurIPS 2020
(who call it CNN-A); Wang et al., "Beta-CROWN", NeurIPS 2021 (ResNet-2B and ResNet-4B). Layers carry the names of
those weights.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn

from fairbench.registration import register_model

__all__ = ["PlainBlock", "cnn_a", "resnet_2b", "resnet_4b"]


class PlainBlock(nn.Module):
    """Two 3x3 convolutions with bias, without BatchNorm, beside a shortcut that is a 1x1 convolution if the block
    strides.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        strided = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(*([nn.Conv2d(inputs, outputs, 1, stride)] if strided else []))

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(F(x) + shortcut(x))."""
        residual: Tensor = self.conv2(self.conv1(x).relu())
        shortcut: Tensor = self.shortcut(x)
        return (residual + shortcut).relu()


@register_model("cnn-a", summary="two 4x4 convolutions of stride 2 and two linear layers: 0.21 M parameters at 32x32")
def cnn_a(num_classes: int, shape: tuple[int, int, int]) -> nn.Sequential:
    """Convolutions of 16 and 32 channels, then linear layers of 100 and `num_classes` units."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), 100),
        nn.ReLU(),
        nn.Linear(100, num_classes),
    )


@register_model("resnet-2b", summary="two residual blocks without BatchNorm: 0.11 M parameters at 32x32")
def resnet_2b(num_classes: int, shape: tuple[int, int, int]) -> nn.Sequential:
    """A stem of 8 channels and one stage of two blocks of 16."""
    layers = OrderedDict[str, nn.Module](conv1=nn.Conv2d(shape[0], 8, 3, stride=2, padding=1), relu=nn.ReLU())
    layers["layer1"] = nn.Sequential(PlainBlock(8, 16, 2), PlainBlock(16, 16, 1))
    return _with_head(layers, 16 * _strided(shape, 4), num_classes)


@register_model("resnet-4b", summary="four residual blocks without BatchNorm: 0.12 M parameters at 32x32")
def resnet_4b(num_classes: int, shape: tuple[int, int, int]) -> nn.Sequential:
    """A stem of 16 channels and two stages of two blocks of 32."""
    layers = OrderedDict[str, nn.Module](conv1=nn.Conv2d(shape[0], 16, 3, stride=2, padding=1), relu=nn.ReLU())
    layers["layer1"] = nn.Sequential(PlainBlock(16, 32, 2), PlainBlock(32, 32, 1))
    layers["layer2"] = nn.Sequential(PlainBlock(32, 32, 2), PlainBlock(32, 32, 1))
    return _with_head(layers, 32 * _strided(shape, 8), num_classes)


def _strided(shape: tuple[int, int, int], stride: int) -> int:
    """Return how many positions padded 3x3 convolutions of a total stride leave: each rounds a side up."""
    return math.ceil(shape[1] / stride) * math.ceil(shape[2] / stride)


def _with_head(layers: OrderedDict[str, nn.Module], features: int, num_classes: int) -> nn.Sequential:
    """Append a hidden linear layer of 100 units and the logits to the layers."""
    head: dict[str, nn.Module] = {
        "flatten": nn.Flatten(),
        "linear1": nn.Linear(features, 100),
        "hidden": nn.ReLU(),
        "linear2": nn.Linear(100, num_classes),
    }
    return nn.Sequential(OrderedDict(layers | head))
