from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_net import image_rng, random_images, small_net
from torch import Tensor, nn

from fairbench.attacks import Ball, ImageRNG, pgd, resolve
from fairbench.attacks.mim import mim
from fairbench.attacks.projections import distance


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


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.floats(0, 1.5), st.floats(0, 2), st.integers(1, 5), st.sampled_from(["Linf", "L2"]))
def test_in_the_ball_and_in_the_box(seed: int, eps: float, step: float, steps: int, norm: str) -> None:
    x, y = random_images(5, seed), torch.arange(5) % 4
    found = mim(small_net(), x, y, eps=eps, step=step, steps=steps, norm=norm, rng=image_rng(5))  # type: ignore[arg-type]
    assert distance(found - x, norm).max() <= eps * (1 + 1e-5) + 1e-6  # type: ignore[arg-type]
    assert found.min() >= 0
    assert found.max() <= 1


def test_eps_zero_and_batches() -> None:
    net, x = small_net(), random_images(60)
    y = net(x).argmax(1)
    assert torch.equal(mim(net, x, y, eps=0.0, step=0.0, rng=image_rng(60)), x)
    craft = resolve("mim-20", Ball("Linf", 0.05)).craft
    whole = net(craft(net, x, y, image_rng(60))).argmax(1)
    parts = torch.cat([net(craft(net, x[i], y[i], ImageRNG(0, i))).argmax(1) for i in torch.arange(60).split(7)])
    assert torch.equal(whole, parts)
    assert 0.1 < float((whole != y).float().mean()) < 0.95
