from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fairbench.models import build_model
from fairbench.models.certified import PlainBlock

# Names and shapes of the public weights, as their files list them.
CNN_A = {
    "0.weight": (16, 3, 4, 4),
    "0.bias": (16,),
    "2.weight": (32, 16, 4, 4),
    "2.bias": (32,),
    "5.weight": (100, 2048),
    "5.bias": (100,),
    "7.weight": (10, 100),
    "7.bias": (10,),
}


def shapes(name):
    with torch.device("meta"):
        model = build_model(name, num_classes=10, shape=(3, 32, 32))
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def test_cnn_a_takes_the_public_weights():
    assert shapes("cnn-a") == CNN_A


@pytest.mark.parametrize(
    ("name", "count", "features", "blocks"), [("resnet-2b", 112_006, 1024, 2), ("resnet-4b", 123_734, 512, 4)]
)
def test_residual_networks_take_the_public_weights(name, count, features, blocks):
    found = shapes(name)
    assert sum(torch.Size(shape).numel() for shape in found.values()) == count
    assert found["linear1.weight"] == (100, features)
    assert len([key for key in found if key.endswith("conv2.weight")]) == blocks
    assert {key for key in found if "shortcut" in key} == {
        f"layer{stage}.0.shortcut.0.{part}" for stage in range(1, blocks // 2 + 1) for part in ("weight", "bias")
    }


@pytest.mark.parametrize("name", ["cnn-a", "resnet-2b", "resnet-4b"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 30, 33), (1, 8, 9), (1, 17, 12)])
def test_images_of_any_side_are_classified(name, shape):
    assert build_model(name, num_classes=3, shape=shape)(torch.zeros(2, *shape)).shape == (2, 3)


@pytest.mark.parametrize(("inputs", "stride"), [(4, 1), (3, 1), (4, 2)])
def test_a_block_adds_its_input_or_a_projection_of_it(inputs, stride):
    block, x = PlainBlock(inputs, 4, stride), torch.randn(2, inputs, 6, 6)
    first = F.conv2d(x, block.conv1.weight, block.conv1.bias, stride, padding=1).relu()
    residual = F.conv2d(first, block.conv2.weight, block.conv2.bias, padding=1)
    kept = x
    if len(block.shortcut):
        kept = F.conv2d(x, block.shortcut[0].weight, block.shortcut[0].bias, stride)
    assert torch.allclose(block(x), (residual + kept).relu(), atol=1e-6)
    assert (len(block.shortcut) == 0) == (inputs == 4 and stride == 1)
