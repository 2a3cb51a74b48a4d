from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models as reference

from fairbench.models.mobilenet import InvertedResidual, mobilenet_v2


def test_parameters_are_torchvisions():
    with torch.device("meta"):
        ours, theirs = mobilenet_v2(10, (3, 32, 32)), reference.mobilenet_v2(num_classes=10)
    shapes = [sorted(tuple(p.shape) for p in model.parameters()) for model in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_the_small_image_stem_leaves_four_by_four_pixels():
    with torch.device("meta"):
        model = mobilenet_v2(10, (3, 32, 32))
        features = model[:-3](torch.zeros(1, 3, 32, 32))
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 32, 32))
    assert features.shape == (1, 1280, 4, 4)
    assert 87e6 < counter.get_total_flops() / 2 < 89e6


def test_the_input_is_added_only_where_shapes_are_equal():
    x = torch.randn(1, 8, 4, 4)
    for block, kept in (
        (InvertedResidual(8, 8, 6, 1), x),
        (InvertedResidual(8, 9, 6, 1), 0),
        (InvertedResidual(8, 8, 6, 2), 0),
    ):
        torch.nn.init.zeros_(block.layers[2][0].weight)
        out = block.eval()(x)
        assert torch.equal(out, torch.zeros_like(out) + kept)


def test_the_bottleneck_is_linear():
    block = InvertedResidual(4, 6, 1, 1).eval()
    assert (block(torch.randn(4, 4, 5, 5)) < 0).any()
