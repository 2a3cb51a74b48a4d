from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models as reference

from fairbench.errors import InvalidInput
from fairbench.models.vgg import vgg16


def test_the_convolutions_are_torchvisions():
    with torch.device("meta"):
        ours, theirs = vgg16(10, (3, 32, 32)), reference.vgg16_bn(num_classes=10)
    assert [tuple(p.shape) for p in ours.features.parameters()] == [
        tuple(p.shape) for p in theirs.features.parameters()
    ]


def test_five_poolings_leave_one_pixel_and_one_linear_layer():
    with torch.device("meta"):
        model = vgg16(10, (3, 32, 32))
        with FlopCounterMode(display=False) as counter:
            assert model.features(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 1, 1)
    assert [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)] == [model.classifier]
    assert 313e6 < counter.get_total_flops() / 2 < 314e6


def test_images_that_five_poolings_would_erase_are_refused():
    with pytest.raises(InvalidInput, match="at least 32x32, got 28x28"):
        vgg16(10, (1, 28, 28))
    assert vgg16(100, (3, 64, 64)).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 100)
