from __future__ import annotations

import torch

from fairbench.attacks import ImageRNG
from fairbench.kernels import philox_uniform


def test_an_image_has_the_same_numbers_in_any_batch() -> None:
    order = torch.tensor([4, 1, 3, 0, 2])
    whole, shuffled = ImageRNG(7, torch.arange(5)), ImageRNG(7, order)
    assert torch.equal(whole.uniform((5, 3, 4, 4))[order], shuffled.uniform((5, 3, 4, 4)))
    assert torch.equal(whole.normal((5, 3, 4, 4), restart=2)[order], shuffled.normal((5, 3, 4, 4), restart=2))
    assert whole.uniform((5,)).shape == (5,)


def test_streams_restarts_kinds_and_augmentation_are_apart() -> None:
    index, shape = torch.arange(2), (2, 8)
    rows = [
        ImageRNG(0, index).uniform(shape),
        ImageRNG(0, index).uniform(shape, restart=1),
        ImageRNG(0, index, stream=1).uniform(shape),
        ImageRNG(1, index).uniform(shape),
        ImageRNG(0, index).normal(shape),
        philox_uniform(0, index, 8),
    ]
    assert len(torch.unique(torch.cat(rows), dim=0)) == 12


def test_normal_and_uniform_numbers_are_independent() -> None:
    rng = ImageRNG(0, torch.arange(100))
    pair = torch.stack((rng.uniform((100, 500)).flatten(), rng.normal((100, 500)).abs().flatten()))
    assert abs(torch.corrcoef(pair)[0, 1]) < 0.02
