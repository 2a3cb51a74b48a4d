from __future__ import annotations

import sys

import pytest
import torch
from small_net import image_rng, random_images, small_net
from torch import Tensor, nn

from fairbench.attacks import Ball, resolve
from fairbench.attacks.losses import cw_loss
from fairbench.attacks.square import patch_side, square

SHAPE = (2, 6, 6)


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
    found = square(model, x, torch.zeros(1, dtype=torch.int64), eps=0.1, queries=60, rng=image_rng(1))
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
    net, x, asked = small_net(shape=SHAPE), random_images(40, shape=SHAPE), list[int]()
    y = net(x).argmax(1)

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(len(x))
            logits: Tensor = net(x)
            return logits

    # the last patches have one pixel, and half of them leave a grey image unchanged
    spared = square(Counted(), x, y, eps=0.02, share=0.05, queries=100, rng=image_rng(40))
    some = sum(asked)
    asked.clear()
    monkeypatch.setattr(
        sys.modules["fairbench.attacks.square"], "_margins", lambda model, point, s: cw_loss(model(point), s.y)
    )
    full = square(Counted(), x, y, eps=0.02, share=0.05, queries=100, rng=image_rng(40))
    assert torch.allclose(spared, full, atol=1e-6)
    assert some < 0.8 * sum(asked)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_more_queries_break_more(norm: str) -> None:
    net, x = small_net(shape=SHAPE), random_images(80, shape=SHAPE)
    y = net(x).argmax(1)
    eps = {"Linf": 0.03, "L2": 0.2, "L1": 0.8}[norm]
    share = [
        float((net(square(net, x, y, eps=eps, norm=norm, queries=q, rng=image_rng(80))).argmax(1) != y).float().mean())  # type: ignore[arg-type]
        for q in (1, 300)
    ]
    assert share[0] < share[1]
    assert share[1] > 0.1


def test_no_gradient_is_asked_for_and_the_name_resolves() -> None:
    class Step(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            return torch.stack((torch.full((len(x),), 0.5), (x.mean((1, 2, 3)) * 20).round() / 20), 1)

    x, y = torch.full((4, 2, 6, 6), 0.46), torch.zeros(4, dtype=torch.int64)
    found = resolve("square:queries=300", Ball("Linf", 0.1)).craft(Step(), x, y, image_rng(4))
    with torch.no_grad():
        assert (Step()(found).argmax(1) == 1).any()
