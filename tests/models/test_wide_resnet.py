from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fairbench.models.wide_resnet import WideBlock, wrn_28_10, wrn_34_10


@pytest.mark.parametrize(("build", "depth"), [(wrn_28_10, 28), (wrn_34_10, 34)])
def test_depth_counts_all_convolutions_three_shortcuts_included(build, depth):
    with torch.device("meta"):
        modules = dict(build(10, (3, 32, 32)).named_modules())
    convolutions = [name for name, module in modules.items() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == depth
    assert sum("convShortcut" in name for name in convolutions) == 3


@pytest.mark.parametrize(("build", "millions"), [(wrn_28_10, 36.5), (wrn_34_10, 46.2)])
def test_parameters_are_those_of_the_papers(build, millions):
    with torch.device("meta"):
        model = build(10, (3, 32, 32))
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_multiply_adds_by_hand():
    with torch.device("meta"):
        model = wrn_28_10(10, (3, 32, 32))
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 32, 32))
    by_hand = 27 * 16 * 32**2 + 640 * 10
    for inputs, outputs, side in ((16, 160, 32), (160, 320, 16), (320, 640, 8)):
        by_hand += side**2 * outputs * (9 * inputs + 7 * 9 * outputs + inputs)
    assert counter.get_total_flops() == 2 * by_hand


def test_names_are_those_of_published_checkpoints():
    with torch.device("meta"):
        names = set(wrn_34_10(10, (3, 32, 32)).state_dict())
    assert {"conv1.weight", "block1.layer.0.convShortcut.weight", "block3.layer.4.bn2.running_var", "fc.bias"} < names
    assert not any(name.startswith("block1.layer.5") for name in names)


def test_a_block_whose_branch_is_silent_is_the_identity_or_its_shortcut():
    x = torch.randn(2, 4, 6, 6)
    same, wider = WideBlock(4, 4, 1).eval(), WideBlock(4, 6, 2).eval()
    for block in (same, wider):
        torch.nn.init.zeros_(block.conv2.weight)
    assert torch.equal(same(x), x)
    assert torch.equal(wider(x), wider.convShortcut(wider.bn1(x).relu()))


def test_convolutions_are_drawn_with_the_variance_of_he_for_their_outputs():
    torch.manual_seed(0)
    weight = wrn_28_10(10, (3, 8, 8)).block1.layer[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 160)) ** 0.5, rel=0.01)
