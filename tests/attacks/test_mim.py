from __future__ import annotations

import pytest
import torch
from small_net import image_rng, random_images, small_net
from torch import Tensor, nn

from fairbench.attacks import pgd
from fairbench.attacks.mim import mim


def test_momentum_by_hand() -> None:
    """The gradient is reversed after the first step: with decay 1 both cancel, with decay 0.5 the new one dominates."""

    class Valley(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            position = x.flatten(1)
            return torch.cat((torch.zeros_like(position), -4.0 - (position - 0.52).abs()), 1)

    x, y = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    how = {"eps": 0.2, "step": 0.05, "rng": image_rng(1), "iterate": "last"}
    assert float(mim(Valley(), x, y, steps=1, **how)) == pytest.approx(0.55)  # type: ignore[arg-type]
    assert float(mim(Valley(), x, y, steps=2, **how)) == pytest.approx(0.55)  # type: ignore[arg-type]
    assert float(mim(Valley(), x, y, steps=2, decay=0.5, **how)) == pytest.approx(0.5)  # type: ignore[arg-type]


def test_without_memory_it_is_pgd() -> None:
    net, x = small_net(), random_images(40)
    y = net(x).argmax(1)
    for iterate in ("any", "last"):
        how = {"eps": 0.05, "steps": 6, "step": 0.02, "rng": image_rng(40), "iterate": iterate}
        mine = mim(net, x, y, decay=0.0, **how)  # type: ignore[arg-type]
        theirs = pgd(net, x, y, random_start=False, **how)  # type: ignore[arg-type]
        assert torch.equal(net(mine).argmax(1) != y, net(theirs).argmax(1) != y)
        assert torch.allclose(mine, theirs, atol=1e-6)
