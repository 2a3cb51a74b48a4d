"""Wide residual networks.

Source: Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016. Layers carry the names that published robust
checkpoints use.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from fairbench.registration import register_model

__all__ = ["WideBlock", "wrn_28_10", "wrn_34_10"]


class WideBlock(nn.Module):
    """Two pre-activated 3x3 convolutions; if channels change, the shortcut is a 1x1 convolution of the activation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """Return F(x) + x, or F(x) + shortcut(relu(bn(x))) where channels change."""
        active = self.bn1(x).relu()
        residual: Tensor = self.conv2(self.bn2(self.conv1(active)).relu())
        return residual + (x if self.convShortcut is None else self.convShortcut(active))


@register_model("wrn-28-10", summary="WideResNet-28-10: 36.5 M parameters, 5.2 G multiply-adds at 32x32")
def wrn_28_10(num_classes: int, shape: tuple[int, int, int]) -> nn.Sequential:
    """Three groups of four blocks, 160 to 640 channels."""
    return _wide_resnet(num_classes, shape[0], depth=28, factor=10)


@register_model("wrn-34-10", summary="WideResNet-34-10: 46.2 M parameters, 6.7 G multiply-adds at 32x32")
def wrn_34_10(num_classes: int, shape: tuple[int, int, int]) -> nn.Sequential:
    """Three groups of five blocks, 160 to 640 channels."""
    return _wide_resnet(num_classes, shape[0], depth=34, factor=10)


def _wide_resnet(num_classes: int, channels: int, *, depth: int, factor: int) -> nn.Sequential:
    """WRN-depth-factor: three groups of (depth - 4) / 6 blocks, without dropout."""
    layers = OrderedDict[str, nn.Module](conv1=nn.Conv2d(channels, 16, 3, padding=1, bias=False))
    inputs = 16
    for number, (outputs, stride) in enumerate(((16 * factor, 1), (32 * factor, 2), (64 * factor, 2)), start=1):
        rest = [WideBlock(outputs, outputs, 1) for _ in range((depth - 4) // 6 - 1)]
        group = nn.Sequential(WideBlock(inputs, outputs, stride), *rest)
        layers[f"block{number}"] = nn.Sequential(OrderedDict(layer=group))
        inputs = outputs
    layers |= {"bn1": nn.BatchNorm2d(inputs), "relu": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1)}
    network = nn.Sequential(layers | {"flatten": nn.Flatten(), "fc": nn.Linear(inputs, num_classes)})
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
