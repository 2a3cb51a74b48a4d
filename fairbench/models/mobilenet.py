"""MobileNet-V2 for small images: the stem and the second stage have stride 1.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, table 2.
"""

from __future__ import annotations

from torch import Tensor, nn

from fairbench.registration import register_model

__all__ = ["InvertedResidual", "mobilenet_v2"]

# Expansion, output channels, blocks and first stride of each stage; the paper's second stage has stride 2.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """A 1x1 expansion, a depthwise 3x3 convolution and a linear projection, plus the input if shapes are equal."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = _convolution(inputs, hidden, 1) if expansion > 1 else nn.Sequential()
        filtered = _convolution(hidden, hidden, 3, stride, groups=hidden)
        project = nn.Sequential(nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.layers = nn.Sequential(expand, filtered, project)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return F(x), plus x where the block keeps the shape."""
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


@register_model("mobilenet-v2", summary="MobileNet-V2 with a CIFAR stem: 2.2 M parameters, 88 M multiply-adds at 32x32")
def mobilenet_v2(num_classes: int, shape: tuple[int, int, int]) -> nn.Sequential:
    """Seven stages of inverted residuals between a 3x3 stem of 32 channels and a 1x1 convolution to 1280."""
    layers: list[nn.Module] = [_convolution(shape[0], 32, 3)]
    inputs = 32
    for expansion, outputs, blocks, first_stride in STAGES:
        for stride in (first_stride, *(1 for _ in range(blocks - 1))):
            layers.append(InvertedResidual(inputs, outputs, expansion, stride))
            inputs = outputs
    layers += [_convolution(inputs, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, num_classes)]
    return nn.Sequential(*layers)


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())
