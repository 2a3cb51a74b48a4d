from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_net import image_rng, random_images, small_net
from torch import Tensor, nn

from fairbench.attacks import ImageRNG, cw, frozen, inner_maximisation, pgd
from fairbench.attacks.losses import ce
from fairbench.attacks.pgd import Iterate
from fairbench.kernels import projected_sign_step


class Two(nn.Module):
    """Two pixels, two classes: logits (0, a.x - b)."""

    def __init__(self, a: tuple[float, float], b: float) -> None:
        super().__init__()
        self.register_buffer("a", torch.tensor(a))
        self.b = b

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.a - self.b
        return torch.stack((torch.zeros_like(score), score), 1)


@pytest.mark.parametrize("loss", ["ce", "cw"])
def test_pgd_by_hand(loss: str) -> None:
    x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
    rng = image_rng(1)
    model = Two((1.0, -2.0), 9.0)
    found = pgd(model, x, y, eps=0.1, steps=3, step=0.04, loss=loss, rng=rng, random_start=False)  # type: ignore[arg-type]
    assert torch.allclose(found.flatten(), torch.tensor([0.6, 0.4]))
    # a.x - b grows by 0.12 a step from -0.2: the second step ends at 0.04 and is returned, the third is not taken
    model = Two((1.0, -2.0), -0.3)
    found = pgd(model, x, y, eps=0.5, steps=3, step=0.04, loss=loss, rng=rng, random_start=False)  # type: ignore[arg-type]
    assert torch.allclose(found.flatten(), torch.tensor([0.58, 0.42]))
    last = pgd(model, x, y, eps=0.5, steps=3, step=0.04, rng=rng, random_start=False, iterate="last")
    assert torch.allclose(last.flatten(), torch.tensor([0.62, 0.38]))


def test_cw_is_pgd_on_the_margin_with_thirty_steps() -> None:
    net, x, y = small_net(scale=1.0), random_images(20), torch.arange(20) % 4
    expected = pgd(net, x, y, eps=0.1, steps=30, step=0.01, loss="cw", rng=image_rng(20))
    assert torch.equal(cw(net, x, y, eps=0.1, step=0.01, rng=image_rng(20)), expected)


def test_kl_leaves_the_clean_prediction_and_raises_divergence() -> None:
    net, x = small_net(scale=3.0), random_images(30)
    clean = net(x)
    y = clean.argmax(1)
    found = pgd(net, x, y, eps=0.1, steps=10, step=0.02, loss="kl", rng=image_rng(30), iterate="last")

    def divergence(z: Tensor) -> Tensor:
        return (clean.softmax(1) * (clean.log_softmax(1) - z.log_softmax(1))).sum(1)

    start = x + 0.1 * (2 * image_rng(30).uniform(x.shape) - 1)
    assert (divergence(net(found)) > divergence(net(start.clamp(0, 1)))).all()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32),
    st.floats(0, 1.5),
    st.floats(0, 3),
    st.integers(1, 4),
    st.sampled_from(["Linf", "L2"]),
    st.sampled_from(["any", "last"]),
    st.booleans(),
)
def test_in_the_ball_and_in_the_box(
    seed: int, eps: float, step: float, steps: int, norm: str, iterate: str, random_start: bool
) -> None:
    x, y = random_images(6, seed), torch.arange(6) % 4
    how = {"norm": norm, "iterate": iterate, "random_start": random_start}
    found = pgd(small_net(scale=1.0), x, y, eps=eps, step=step, steps=steps, rng=image_rng(6, seed), **how)  # type: ignore[arg-type]
    distance = (found - x).flatten(1).norm(torch.inf if norm == "Linf" else 2, dim=1)
    assert distance.max() <= eps + 1e-5
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.shape == x.shape


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_random_start_fills_the_ball(norm: str) -> None:
    x, y = torch.full((2000, 1, 4, 4), 0.5), torch.zeros(2000, dtype=torch.int64)
    flat = Two((0.0, 0.0), 1.0)
    start = pgd(lambda z: flat(z[..., :1, :2]), x, y, eps=0.2, step=0.0, steps=1, norm=norm, rng=image_rng(2000))  # type: ignore[arg-type]
    radius = (start - x).flatten(1).norm(torch.inf if norm == "Linf" else 2, dim=1)
    # in 16 dimensions the radius of a uniform point is distributed as u^(1/16), with mean 16/17
    assert abs(float(radius.mean()) / 0.2 - 16 / 17) < 0.01
    assert abs(float((start - x).mean())) < 0.002


def test_a_broken_iterate_is_returned_even_if_a_later_one_would_be_correct() -> None:
    class Bump(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            position = x.flatten(1)[:, 0]
            wrong = 0.02 - (position - 0.55).abs() + 0.001 * position
            return torch.stack((torch.zeros_like(wrong), wrong), 1)

    x, y = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])

    def found(iterate: Iterate) -> Tensor:
        how = {"eps": 0.2, "steps": 2, "step": 0.05, "rng": image_rng(1)}
        return pgd(Bump(), x, y, iterate=iterate, random_start=False, **how)  # type: ignore[arg-type]

    # the iterates are 0.5, 0.55 and then either side of the bump
    assert float(found("any")) == pytest.approx(0.55)
    assert Bump()(found("any")).argmax(1).item() == 1
    assert Bump()(found("last")).argmax(1).item() == 0


def test_a_loss_of_ones_own_gets_logits_and_labels_of_the_images_still_alive() -> None:
    net, x = small_net(scale=3.0), random_images(40)
    y = net(x).argmax(1)
    seen: list[int] = []

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        seen.append(len(logits))
        assert len(target) == len(logits)
        return ce(logits, target)

    mine = pgd(net, x, y, eps=0.1, steps=6, step=0.03, loss=loss, rng=image_rng(40))
    assert torch.equal(mine, pgd(net, x, y, eps=0.1, steps=6, step=0.03, rng=image_rng(40)))
    assert seen[0] == 40
    assert seen[-1] < 40
    assert seen == sorted(seen, reverse=True)


def test_inner_maximisation_by_hand_with_per_sample_budgets() -> None:
    x = torch.full((2, 1, 1, 2), 0.5)
    y = torch.tensor([0, 1])
    model = Two((1.0, -2.0), -0.3)
    x_adv, survived = inner_maximisation(
        model,
        x,
        loss=lambda logits: ce(logits, y),
        eps=torch.tensor([0.5, 0.06]),
        step=torch.tensor([0.04, 0.05]),
        steps=3,
        start=x,
        correct_with=y,
    )
    assert torch.allclose(x_adv.flatten(1), torch.tensor([[0.62, 0.38], [0.44, 0.56]]))
    assert survived is not None
    assert survived.dtype == torch.int64
    # the first image is correct at 0.5/0.5 and 0.54/0.46, broken at the third iterate; the second was never correct
    assert survived.tolist() == [2, 0]


def test_inner_maximisation_takes_scalar_losses_and_keeps_an_unclipped_start() -> None:
    net, x, y = small_net(scale=1.0), random_images(5), torch.arange(5) % 4
    start = x + 0.3
    per_sample, none = inner_maximisation(net, x, loss=lambda z: ce(z, y), eps=0.1, step=0.02, steps=1, start=start)
    scalar, _ = inner_maximisation(net, x, loss=lambda z: ce(z, y).mean(), eps=0.1, step=0.02, steps=1, start=start)
    again = start.clone().requires_grad_()
    (grad,) = torch.autograd.grad(ce(net(again), y).sum(), again)
    assert none is None
    assert torch.equal(per_sample, projected_sign_step(start, grad, x, 0.1, 0.02))
    assert torch.equal(per_sample, scalar)
    assert torch.equal(start, x + 0.3)


def test_survived_never_exceeds_the_steps_and_matches_the_iterates() -> None:
    net, x = small_net(scale=3.0), random_images(50)
    y = net(x).argmax(1)

    def run(steps: int) -> tuple[Tensor, Tensor | None]:
        return inner_maximisation(
            net, x, loss=lambda z: ce(z, y), eps=0.1, step=0.03, steps=steps, start=x, correct_with=y
        )

    iterates = [x, *(run(steps)[0] for steps in range(1, 5))]
    expected = sum((net(iterate).argmax(1) == y).long() for iterate in iterates)
    survived = run(5)[1]
    assert torch.equal(survived, expected)  # type: ignore[arg-type]
    assert expected.min() < 5  # type: ignore[union-attr]


def test_attacks_leave_no_gradients_behind() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    x, y = random_images(6), torch.arange(6) % 4
    with frozen(net):
        pgd(net, x, y, eps=0.1, step=0.02, rng=image_rng(6))
    inner_maximisation(net, x, loss=lambda z: ce(z, y), eps=0.1, step=0.02, steps=2, start=x)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert x.grad is None


def test_fast_finds_the_same_images_up_to_rounding() -> None:
    torch.manual_seed(0)
    conv = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)]
    net = nn.Sequential(*conv).eval().requires_grad_(False)
    x = torch.rand(80, 1, 4, 4)
    y, rng = net(x).argmax(1), ImageRNG(0, torch.arange(80))
    for iterate in ("any", "last"):
        plain, fast = (
            pgd(net, x, y, eps=0.05, steps=8, step=0.0125, rng=rng, iterate=iterate, fast=fast)  # type: ignore[arg-type]
            for fast in (False, True)
        )
        broken = net(plain).argmax(1) != y
        assert 0.1 < float(broken.float().mean()) < 0.9
        assert torch.equal(net(fast).argmax(1) != y, broken)
        assert float(((plain - fast).abs() > 1e-4).float().mean()) < 0.02


def test_fast_never_believes_the_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that mislead only the copy are attacked again, on the model itself."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).requires_grad_(False)
    x = torch.rand(30, 1, 4, 4)
    y, rng = net(x).argmax(1), ImageRNG(0, torch.arange(30))

    class Liar(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = -net(x)
            return logits

    crafting = sys.modules["fairbench.attacks.crafting"]
    monkeypatch.setattr(crafting, "crafting_model", lambda model, like, bf16: Liar())
    found = pgd(net, x, y, eps=0.1, steps=5, step=0.05, rng=rng, fast=True)
    assert torch.equal(found, pgd(net, x, y, eps=0.1, steps=5, step=0.05, rng=rng))
