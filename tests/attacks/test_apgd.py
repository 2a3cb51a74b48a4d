from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from small_net import image_rng, random_images, small_net
from torch import Tensor, nn

from fairbench.attacks import Ball, resolve
from fairbench.attacks.apgd import apgd_ce, apgd_dlr, apgd_t, ascend, checkpoints, random_start, ranked_targets
from fairbench.attacks.projections import distance

ATTACKS = [apgd_ce, apgd_dlr, apgd_t]


def test_checkpoints_of_a_hundred_steps() -> None:
    # p: 0.22, then gaps of 0.19, 0.16, 0.13, 0.10, 0.07 and from there 0.06
    ends = [end for end, _ in checkpoints(100)]
    assert ends == [22, 41, 57, 70, 80, 87, 93, 99]
    assert [since for _, since in checkpoints(100)] == [22, 19, 16, 13, 10, 7, 6, 6]
    assert [end for end, _ in checkpoints(10)] == [3, 5, 6, 7, 8, 9, 10]
    assert list(checkpoints(1)) == [(1, 1)]


def test_the_step_starts_at_two_eps_and_halves_where_nothing_rises() -> None:
    """A peak at 0.5, reached exactly by the start: every step overshoots, so that the step halves at a checkpoint."""
    seen: list[float] = []

    class Peak(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            position = x.flatten(1)
            seen.append(float(position.detach()[0, 0]))
            return torch.cat((torch.ones_like(position), -(position - 0.52).abs()), 1)

    x, y = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    found, broken = ascend(
        Peak(), x, y, lambda z, aim: z[:, 1], eps=0.25, norm="Linf", steps=57, start=torch.full_like(x, 0.5)
    )
    assert not broken.any()
    # the first step of 2 eps ends at the ball's edge; momentum mixes 0.75 of the next edge and 0.25 of the last move
    assert seen[:3] == pytest.approx([0.5, 0.75, 0.75 + 0.75 * -0.5 + 0.25 * 0.25])
    moves = [abs(after - before) for before, after in pairwise(seen)]
    assert max(moves[:22]) > 0.3
    assert max(moves[42:57]) < max(moves[:22]) / 1.5
    # the best point is kept
    assert abs(float(found) - 0.52) == pytest.approx(min(abs(position - 0.52) for position in seen), abs=1e-6)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_linear_model_is_broken_exactly_where_it_can_be(norm: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).requires_grad_(False)
    net[1].bias.copy_(net[1].weight.sum(1) / -2)  # type: ignore[union-attr,operator]
    x = 0.25 + 0.5 * random_images(200)
    z = net(x)
    y, margin = z.argmax(1), (z[:, 0] - z[:, 1]).abs()
    w = net[1].weight[0] - net[1].weight[1]  # type: ignore[union-attr,operator,index]
    # the margin an adversary can make up for is eps times the dual norm of w, as long as no pixel leaves [0,1]
    dual = float({"Linf": w.abs().sum(), "L2": w.norm(), "L1": w.abs().max()}[norm])
    eps = min(0.25, float(margin.median()) / dual)
    broken = net(apgd_ce(net, x, y, eps=eps, norm=norm, rng=image_rng(200))).argmax(1) != y  # type: ignore[arg-type]
    assert not broken[margin > 1.001 * eps * dual].any()
    # within 3 percent of the best there is
    within = margin < 0.97 * eps * dual
    assert 0.1 < float(within.float().mean()) < 0.9
    assert broken[within].all()


def test_targets_are_the_likeliest_wrong_classes() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[0.1, 3.0, -1.0, 2.0], [5.0, 0.0, 1.0, 1.0]])

    x, y = random_images(2), torch.tensor([1, 2])
    assert ranked_targets(Fixed(), x, y).tolist() == [[3, 0, 2], [0, 3, 1]]
    assert ranked_targets(Fixed(), x, y, 1).tolist() == [[3], [0]]


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_are_attacked_by_the_margin(classes: int) -> None:
    net, x = small_net(classes=classes), random_images(60)
    y = net(x).argmax(1)
    for attack in (apgd_dlr, apgd_t):
        broken = net(attack(net, x, y, eps=0.1, steps=20, rng=image_rng(60))).argmax(1) != y
        assert float(broken.float().mean()) > 0.2


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_starts_differ_between_images_and_restarts(norm: str) -> None:
    x = torch.full((3, 1, 4, 4), 0.5)
    first, second = (random_start(x, 0.1, norm, image_rng(3), restart=restart) for restart in (0, 1))  # type: ignore[arg-type]
    assert torch.allclose(distance(first - x, norm), torch.full((3,), 0.1), atol=1e-5)  # type: ignore[arg-type]
    assert not torch.allclose(first[0], first[1])
    assert not torch.allclose(first, second)


def test_names_resolve() -> None:
    net, x = small_net(), random_images(6)
    y = net(x).argmax(1)
    for text in ("apgd-ce", "apgd-ce-7", "apgd-dlr:steps=5", "apgd-t:targets=2,steps=5"):
        attack = resolve(text, Ball("Linf", 0.05))
        assert attack.craft(net, x, y, image_rng(6)).shape == x.shape
