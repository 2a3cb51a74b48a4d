from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models as reference

from fairbench.errors import InvalidInput
from fairbench.models.resnet import BasicBlock, PreActBlock, preactresnet18, resnet18, resnet_micro
from fairbench.registry import models

SHAPE = (3, 32, 32)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model):
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *SHAPE))
    return counter.get_total_flops() // 2


def test_resnet18_has_torchvisions_parameters_but_for_the_stem():
    with torch.device("meta"):
        ours, theirs = resnet18(10, SHAPE), reference.resnet18(num_classes=10)
    assert parameters(ours) - 64 * 3 * 3 * 3 == parameters(theirs) - 64 * 3 * 7 * 7
    assert parameters(ours) == 11_173_962


@pytest.mark.parametrize("build", [resnet18, preactresnet18])
def test_an_eighteen_layer_network_takes_555_million_multiply_adds(build):
    with torch.device("meta"):
        model = build(10, SHAPE)
        side = [32, 16, 8, 4]
        width = [64, 128, 256, 512]
        by_hand = 27 * 64 * 32**2 + 4 * 9 * 64 * 64 * 32**2 + 512 * 10
        for stage in (1, 2, 3):
            inputs, outputs = width[stage - 1], width[stage]
            by_hand += side[stage] ** 2 * outputs * (9 * inputs + 3 * 9 * outputs + inputs)
        assert multiply_adds(model) == by_hand
    name = build.__name__
    assert f"{by_hand / 1e6:.0f} M multiply-adds" in models.details(name)["summary"]


def test_preactresnet18_normalises_after_the_last_block_and_not_after_the_stem():
    with torch.device("meta"):
        names = set(preactresnet18(10, SHAPE).state_dict())
    assert {"bn.weight", "layer4.1.conv2.weight", "layer2.0.shortcut.0.weight"} < names
    assert not any(name.startswith("bn1.") or "shortcut.1" in name for name in names)


def test_resnet_micro_takes_three_to_four_million_multiply_adds():
    with torch.device("meta"):
        assert 3_000_000 <= multiply_adds(resnet_micro(10, SHAPE)) <= 4_000_000


def test_resnet_micro_scales_with_its_width():
    assert resnet_micro(10, SHAPE, width=2).linear.in_features == 8
    with pytest.raises(InvalidInput, match="width must be at least 1"):
        resnet_micro(10, SHAPE, width=0)


@pytest.mark.parametrize("width", [4, 8])
def test_the_stem_keeps_the_resolution(width):
    model = resnet_micro(10, SHAPE, width=width)
    assert model.conv1(torch.zeros(1, *SHAPE)).shape == (1, width, 32, 32)


def silence(block):
    """Make the residual branch return zero."""
    torch.nn.init.zeros_(block.conv2.weight)
    return block.eval()


def test_a_silent_basic_block_is_relu_and_a_silent_preact_block_the_identity():
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(silence(BasicBlock(3, 3, 1))(x), x.relu())
    assert torch.equal(silence(PreActBlock(3, 3, 1))(x), x)


def test_a_silent_block_of_another_shape_is_its_shortcut():
    x = torch.randn(2, 3, 4, 4)
    block = silence(PreActBlock(3, 5, 2))
    assert torch.equal(block(x), block.shortcut(block.bn1(x).relu()))
    basic = silence(BasicBlock(3, 5, 2))
    assert torch.equal(basic(x), basic.shortcut(x).relu())
    assert basic(x).shape == (2, 5, 2, 2)
