from __future__ import annotations

import torch

from fairbench.attacks import ImageRNG
from fairbench.attacks.patches import patch, tiles, transport, window


def test_patch_by_hand() -> None:
    # two rectangles of two rows: n = 1, terms 1/4 and then 1/4 + 1; the middle is row 1 and column 2
    edge, middle = 0.25, 1.25
    half = torch.tensor([[0.0, edge, edge, edge], [0.0, edge, middle, edge]])
    whole = torch.cat((half, -half))
    assert torch.allclose(patch(4), whole / whole.norm())
    assert torch.equal(patch(1), torch.tensor([[-1.0]]))
    # in L1 the same rings are 1/16 and 1
    edge, middle = 1 / 16, 17 / 16
    half = torch.tensor([[0.0, edge, edge, edge], [0.0, edge, middle, edge]])
    assert torch.allclose(patch(4, "L1"), torch.cat((half, -half)) / (2 * half.sum()))


def test_tiles_have_the_norm_of_the_ball() -> None:
    x = torch.full((2, 3, 12, 10), 0.5)
    delta = tiles(x, 0.3, ImageRNG(0, torch.arange(2)), 0) - x
    assert torch.allclose(delta.flatten(1).norm(dim=1), torch.full((2,), 0.3), atol=1e-6)
    assert torch.equal(delta[:, :, 0], torch.zeros(2, 3, 10))
    assert not torch.equal(delta[0], delta[1])


def test_tiles_and_transport_reach_the_surface_of_the_l1_ball() -> None:
    x, rng = torch.full((2, 3, 12, 10), 0.5), ImageRNG(0, torch.arange(2))
    here = tiles(x, 2.0, rng, 0, "L1")
    assert torch.allclose((here - x).flatten(1).abs().sum(1), torch.full((2,), 2.0), atol=1e-4)
    moved = transport(x, here, rng.uniform((2, 8)).T, 4, 2.0, "L1")
    size = (moved - x).flatten(1).abs().sum(1)
    assert (size <= 2.0 + 1e-4).all()
    assert (size > 1.0).all()


def test_windows_cover_all_places_and_stay_inside() -> None:
    draws = torch.tensor([0.0, 0.34, 0.999999])
    assert window(draws, 5, 3).tolist() == [
        [True, True, True, False, False],
        [False, True, True, True, False],
        [False, False, True, True, True],
    ]


def test_transport_empties_one_window_for_another() -> None:
    x = torch.full((1, 1, 6, 6), 0.5)
    here = x + 0.01
    draw = torch.tensor([0.0, 0.0, 0.99, 0.99, 0.0, 0.0])[:, None]
    delta = transport(x, here, draw, 2, 0.2)[0, 0] - 0.5
    assert abs(float(delta.norm()) - 0.2) < 1e-5
    assert torch.equal(delta[4:, 4:], torch.zeros(2, 2))
    assert float(delta[:2, :2].norm()) > float(delta[2:4, 2:4].norm())
    # what neither window holds is left as it was, up to the scaling to the sphere
    outside = delta[2:4, :]
    assert torch.allclose(outside, outside[0, 0].expand_as(outside))
