from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_net import image_rng, random_images, small_net
from torch import Tensor, nn

from fairbench.attacks import Ball, ImageRNG, resolve
from fairbench.attacks.projections import distance
from fairbench.attacks.targeted import pgd_t, reached, targeted_flow


def test_which_class_is_pushed_into_which() -> None:
    """Three classes along one pixel with boundaries at 0.4 and 0.6, of which only neighbours can be reached."""

    class Row(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            position = x.flatten(1)
            return torch.cat((4 * (0.4 - position), torch.zeros_like(position), 4 * (position - 0.6)), 1)

    x = torch.tensor([0.35, 0.2, 0.45, 0.5, 0.7])[:, None, None, None]
    y = torch.tensor([0, 0, 1, 1, 1])
    hits = reached(Row(), x, y, eps=0.08, steps=10, step=0.02, rng=image_rng(5))
    assert hits.tolist() == [
        [True, True, False],
        [True, False, False],
        [True, True, False],
        [False, True, False],
        [False, False, True],
    ]
    matrix = targeted_flow(y, hits)
    assert torch.allclose(matrix[:2], torch.tensor([[1, 0.5, 0], [1 / 3, 2 / 3, 1 / 3]], dtype=torch.float64))
    assert matrix[2].isnan().all()


def test_every_break_is_a_break_and_targets_help() -> None:
    net, x = small_net(), random_images(150)
    y = net(x).argmax(1)
    how = {"eps": 0.05, "steps": 10, "step": 0.01, "rng": image_rng(150)}
    one, every = (net(pgd_t(net, x, y, targets=t, **how)).argmax(1) != y for t in (1, 3))  # type: ignore[arg-type]
    assert (every | ~one).all()
    assert 0 < int(one.sum()) <= int(every.sum()) < 150
    hits = reached(net, x, y, **how)  # type: ignore[arg-type]
    elsewhere = hits.scatter(1, y[:, None], False).any(1)
    assert float((elsewhere == every).float().mean()) > 0.9
    assert hits.gather(1, y[:, None]).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.floats(0, 1.5), st.floats(0, 2), st.sampled_from(["Linf", "L2"]))
def test_in_the_ball_and_in_the_box(seed: int, eps: float, step: float, norm: str) -> None:
    x, y = random_images(5, seed), torch.arange(5) % 4
    found = pgd_t(small_net(), x, y, eps=eps, step=step, steps=3, norm=norm, rng=image_rng(5))  # type: ignore[arg-type]
    assert distance(found - x, norm).max() <= eps * (1 + 1e-5) + 1e-6  # type: ignore[arg-type]
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("size", [7, 50])
def test_eps_zero_and_batches(size: int) -> None:
    net, x = small_net(), random_images(50)
    y = torch.arange(50) % 4
    assert torch.allclose(pgd_t(net, x, y, eps=0.0, step=0.0, rng=image_rng(50)), x)
    craft = resolve("pgd-t-12:rel_step=0.2", Ball("Linf", 0.05)).craft
    order = torch.randperm(50)
    whole, parts = net(craft(net, x, y, image_rng(50))).argmax(1), torch.empty_like(y)
    for index in order.split(size):
        parts[index] = net(craft(net, x[index], y[index], ImageRNG(0, index))).argmax(1)
    assert torch.equal(whole, parts)
