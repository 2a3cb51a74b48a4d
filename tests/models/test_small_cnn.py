from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fairbench.models.small_cnn import small_cnn


def test_channels_and_multiply_adds_on_digits():
    model = small_cnn(10, (1, 8, 8))
    convolutions = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [16, 32, 32]
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, 8, 8))
    by_hand = 64 * 9 * 16 + 16 * 9 * 16 * 32 + 4 * 9 * 32 * 32 + 4 * 32 * 10
    assert counter.get_total_flops() == 2 * by_hand


@pytest.mark.parametrize("side", [1, 5, 8, 9, 32])
def test_any_size_of_image_fits(side):
    assert small_cnn(3, (2, side, side + 1))(torch.zeros(2, 2, side, side + 1)).shape == (2, 3)


def test_batchnorm_replaces_biases():
    model = small_cnn(10, (1, 8, 8), batchnorm=True)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in model) == 3
    assert all(layer.bias is None for layer in model if isinstance(layer, nn.Conv2d))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in small_cnn(10, (1, 8, 8)))


def test_it_learns_to_tell_bars_apart():
    torch.manual_seed(0)
    y = torch.arange(64) % 2
    x = torch.rand(64, 1, 8, 8) * 0.5
    x[y == 0, 0, 3, :] += 0.5
    x[y == 1, 0, :, 3] += 0.5
    model = small_cnn(2, (1, 8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert (model(x).argmax(1) == y).float().mean() > 0.95
