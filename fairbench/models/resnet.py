"""Residual networks for small images: a 3x3 stem of stride 1 without pooling.

Sources: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; "Identity Mappings in Deep Residual
Networks", ECCV 2016. Layers carry the names that published CIFAR checkpoints use.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from fairbench.errors import InvalidInput
from fairbench.registration import register_model

__all__ = ["BasicBlock", "PreActBlock", "preactresnet18", "resnet18", "resnet_micro"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, a 1x1 convolution if the shape changes (option B)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(F(x) + shortcut(x))."""
        residual: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        shortcut: Tensor = self.shortcut(x)
        return (residual + shortcut).relu()


class PreActBlock(nn.Module):
    """BatchNorm and ReLU before each convolution; a convolution in the shortcut reads the first activation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return F(x) + x, or F(x) + shortcut(relu(bn(x))) where the shape changes."""
        active = self.bn1(x).relu()
        residual: Tensor = self.conv2(self.bn2(self.conv1(active)).relu())
        return residual + (x if self.shortcut is None else self.shortcut(active))


@register_model("resnet18", summary="ResNet-18 with a CIFAR stem: 11.2 M parameters, 555 M multiply-adds at 32x32")
def resnet18(num_classes: int, shape: tuple[int, int, int]) -> nn.Sequential:
    """Four stages of two blocks, 64 to 512 channels."""
    stem = OrderedDict[str, nn.Module](conv1=_conv3x3(shape[0], 64), bn1=nn.BatchNorm2d(64), relu=nn.ReLU())
    return _network(stem | _stages(BasicBlock, 64, (64, 128, 256, 512), (1, 2, 2, 2), depth=2), 512, num_classes)


@register_model(
    "preactresnet18",
    summary="pre-activation ResNet-18 with a CIFAR stem: 11.2 M parameters, 555 M multiply-adds at 32x32",
)
def preactresnet18(num_classes: int, shape: tuple[int, int, int]) -> nn.Sequential:
    """Four stages of two pre-activation blocks, 64 to 512 channels, and BatchNorm and ReLU after the last."""
    stem = OrderedDict[str, nn.Module](conv1=_conv3x3(shape[0], 64))
    body = _stages(PreActBlock, 64, (64, 128, 256, 512), (1, 2, 2, 2), depth=2)
    return _network(stem | body | {"bn": nn.BatchNorm2d(512), "relu": nn.ReLU()}, 512, num_classes)


@register_model("resnet-micro", summary="small ResNet for one core: 0.08 M parameters, 3.5 M multiply-adds at 32x32")
def resnet_micro(num_classes: int, shape: tuple[int, int, int], *, width: int = 16) -> nn.Sequential:
    """Three stages of one block with stride 2, `width` to 4 `width` channels: wide layers have few pixels."""
    if width < 1:
        raise InvalidInput(f"resnet-micro: width must be at least 1, got {width}")
    stem = OrderedDict[str, nn.Module](conv1=_conv3x3(shape[0], width), bn1=nn.BatchNorm2d(width), relu=nn.ReLU())
    body = _stages(BasicBlock, width, (width, 2 * width, 4 * width), (2, 2, 2), depth=1)
    return _network(stem | body, 4 * width, num_classes)


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _stages(
    block: type[BasicBlock] | type[PreActBlock],
    inputs: int,
    widths: Sequence[int],
    strides: Sequence[int],
    *,
    depth: int,
) -> OrderedDict[str, nn.Module]:
    """Return stages `layer1`, `layer2`, ... of `depth` blocks, of which the first has the stage's stride."""
    stages = OrderedDict[str, nn.Module]()
    for number, (outputs, stride) in enumerate(zip(widths, strides, strict=True), start=1):
        rest = [block(outputs, outputs, 1) for _ in range(depth - 1)]
        stages[f"layer{number}"] = nn.Sequential(block(inputs, outputs, stride), *rest)
        inputs = outputs
    return stages


def _network(features: OrderedDict[str, nn.Module], width: int, num_classes: int) -> nn.Sequential:
    head = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "linear": nn.Linear(width, num_classes)}
    return nn.Sequential(OrderedDict(features | head))
