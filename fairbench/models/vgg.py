"""VGG-16 with BatchNorm for small images.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
configuration D. As usual on 32x32 images, one linear layer replaces the three of the paper.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from fairbench.errors import InvalidInput
from fairbench.registration import register_model

__all__ = ["vgg16"]

# Output channels of the convolutions of each stage; a 2x2 max-pooling ends a stage.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


@register_model("vgg16", summary="VGG-16 with BatchNorm: 14.7 M parameters, 313 M multiply-adds at 32x32")
def vgg16(num_classes: int, shape: tuple[int, int, int]) -> nn.Sequential:
    """Thirteen 3x3 convolutions in five stages, 64 to 512 channels, for images of at least 32 pixels a side."""
    if min(shape[1:]) < 32:
        raise InvalidInput(f"vgg16: images must be at least 32x32, got {shape[1]}x{shape[2]}")
    layers: list[nn.Module] = []
    inputs = shape[0]
    for stage in STAGES:
        for outputs in stage:
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    head = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classifier": nn.Linear(512, num_classes)}
    return nn.Sequential(OrderedDict[str, nn.Module](features=nn.Sequential(*layers), **head))
