from __future__ import annotations

import torch
from small_net import image_rng, random_images, small_net
from torch import Tensor, nn

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
