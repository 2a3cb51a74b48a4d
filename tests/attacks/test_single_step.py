from __future__ import annotations

import torch
from torch import nn

from fairbench.attacks import ImageRNG, clean, fgsm


def _linear() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        net[1].bias.zero_()
    return net


def test_clean_is_the_image_itself() -> None:
    x = torch.rand(3, 1, 1, 2)
    assert clean(_linear(), x, torch.zeros(3, dtype=torch.int64), eps=0.5, rng=ImageRNG(0, torch.arange(3))) is x


def test_fgsm_is_one_full_step_clipped_to_the_box() -> None:
    x = torch.tensor([[0.8, 0.1], [0.05, 0.0]]).reshape(2, 1, 1, 2)
    y, rng = torch.zeros(2, dtype=torch.int64), ImageRNG(0, torch.arange(2))
    moved = fgsm(_linear(), x, y, eps=0.1, rng=rng)
    assert torch.allclose(moved.flatten(1), torch.tensor([[0.7, 0.2], [0.0, 0.1]]), atol=1e-7)


def test_fgsm_leaves_what_is_wrong_already_unless_asked_for_the_last_iterate() -> None:
    x, y, rng = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]), ImageRNG(0, torch.arange(1))
    assert torch.equal(fgsm(_linear(), x, y, eps=0.1, rng=rng), x)
    assert not torch.equal(fgsm(_linear(), x, y, eps=0.1, rng=rng, iterate="last"), x)


def test_l2_step_follows_the_gradient() -> None:
    x, y, rng = torch.tensor([0.8, 0.1]).reshape(1, 1, 1, 2), torch.tensor([0]), ImageRNG(0, torch.arange(1))
    moved = fgsm(_linear(), x, y, eps=0.1, norm="L2", rng=rng)
    expected = torch.tensor([0.8 - 0.1 / 5**0.5, 0.1 + 0.2 / 5**0.5])
    assert torch.allclose(moved.flatten(), expected)
