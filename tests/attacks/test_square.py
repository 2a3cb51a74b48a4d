from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fairbench.attacks import Ball, ImageRNG, resolve
from fairbench.attacks.losses import cw_loss
from fairbench.attacks.projections import distance
from fairbench.attacks.square import patch_side, square


def _net(seed: int = 0, scale: float = 3.0) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(288, 4)).eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
        parameter.mul_(scale)
    return net


def _images(n: int, seed: int = 1) -> Tensor:
    return torch.rand(n, 2, 6, 6, generator=torch.Generator().manual_seed(seed))


def _rng(n: int, seed: int = 0) -> ImageRNG:
    return ImageRNG(seed, torch.arange(n))


def test_patches_shrink_on_schedule() -> None:
    # sqrt(0.8 * 1024) = 28.6 on 32 x 32; halved after queries 10, 50, 200, 500, 1000, 2000 and 4000
    queries = (0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)
    assert [patch_side(query, 0.8, 32, 32) for query in queries] == [29, 29, 20, 14, 10, 7, 5, 4, 3, 2, 1]
    assert patch_side(0, 1.0, 8, 8) == 7
    assert patch_side(9999, 0.8, 8, 8) == 1


def test_linf_starts_from_stripes_and_paints_corners_of_the_ball() -> None:
    class Watch(nn.Module):
        seen: list[Tensor]

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(x.clone())
            return torch.stack((torch.ones(len(x)), x.mean((1, 2, 3))), 1)

    model = Watch()
    model.seen = []
    x = torch.full((1, 2, 6, 6), 0.5)
    found = square(model, x, torch.zeros(1, dtype=torch.int64), eps=0.1, queries=60, rng=_rng(1))
    stripes, *points = model.seen
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    assert torch.allclose((stripes - x).abs(), torch.full_like(x, 0.1))
    assert 30 < len(points) <= 60
    side = patch_side(0, 0.8, 6, 6)
    changed = (points[0] != stripes).any(1)
    assert 0 < int(changed[0].any(0).sum()) <= side
    assert all(torch.allclose((point - x).abs(), torch.full_like(x, 0.1)) for point in points)
    means = [float(point[0].mean()) for point in (stripes, *points)]
    # the best point is returned, and it is better than the start
    assert float(found[0].mean()) == pytest.approx(max(means))
    assert max(means) > means[0]


def test_proposals_that_change_nothing_are_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, asked = _net(), _images(40), list[int]()
    y = net(x).argmax(1)

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(len(x))
            logits: Tensor = net(x)
            return logits

    # the last patches have one pixel, and half of them leave a grey image unchanged
    spared = square(Counted(), x, y, eps=0.02, share=0.05, queries=100, rng=_rng(40))
    some = sum(asked)
    asked.clear()
    monkeypatch.setattr(
        sys.modules["fairbench.attacks.square"], "_margins", lambda model, point, s: cw_loss(model(point), s.y)
    )
    full = square(Counted(), x, y, eps=0.02, share=0.05, queries=100, rng=_rng(40))
    assert torch.allclose(spared, full, atol=1e-6)
    assert some < 0.8 * sum(asked)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_more_queries_break_more(norm: str) -> None:
    net, x = _net(), _images(80)
    y = net(x).argmax(1)
    eps = {"Linf": 0.03, "L2": 0.2, "L1": 0.8}[norm]
    share = [
        float((net(square(net, x, y, eps=eps, norm=norm, queries=q, rng=_rng(80))).argmax(1) != y).float().mean())  # type: ignore[arg-type]
        for q in (1, 300)
    ]
    assert share[0] < share[1]
    assert share[1] > 0.1


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.floats(0, 1.5), st.integers(1, 70), st.sampled_from(["Linf", "L2", "L1"]))
def test_in_the_ball_and_in_the_box(seed: int, eps: float, queries: int, norm: str) -> None:
    x, y = _images(5, seed), torch.arange(5) % 4
    found = square(_net(), x, y, eps=eps, norm=norm, queries=queries, rng=_rng(5, seed))  # type: ignore[arg-type]
    assert distance(found - x, norm).max() <= eps * (1 + 1e-5) + 1e-6  # type: ignore[arg-type]
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_eps_zero_is_the_clean_prediction(norm: str) -> None:
    x = _images(6)
    found = square(_net(), x, torch.arange(6) % 4, eps=0.0, norm=norm, queries=20, rng=_rng(6))  # type: ignore[arg-type]
    assert torch.allclose(found, x)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_batch_order_and_size_do_not_matter(norm: str) -> None:
    net, x = _net(), _images(200)
    y = net(x).argmax(1)

    def verdicts(order: Tensor, size: int) -> Tensor:
        broken = torch.empty_like(y)
        for index in order.split(size):
            rng = ImageRNG(3, index)
            eps = {"Linf": 0.04, "L2": 0.3, "L1": 1.2}[norm]
            found = square(net, x[index], y[index], eps=eps, norm=norm, queries=120, rng=rng)  # type: ignore[arg-type]
            broken[index] = net(found).argmax(1)
        return broken

    whole = verdicts(torch.arange(200), 200)
    assert 0.05 < float((whole != y).float().mean()) < 0.95
    for order, size in ((torch.arange(200), 23), (torch.randperm(200), 64)):
        assert float((verdicts(order, size) == whole).float().mean()) >= 0.995


def test_no_gradient_is_asked_for_and_the_name_resolves() -> None:
    class Step(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            return torch.stack((torch.full((len(x),), 0.5), (x.mean((1, 2, 3)) * 20).round() / 20), 1)

    x, y = torch.full((4, 2, 6, 6), 0.46), torch.zeros(4, dtype=torch.int64)
    found = resolve("square:queries=300", Ball("Linf", 0.1)).craft(Step(), x, y, _rng(4))
    with torch.no_grad():
        assert (Step()(found).argmax(1) == 1).any()
