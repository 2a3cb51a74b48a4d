from __future__ import annotations

import pytest
import torch
from small_net import image_rng, random_images
from torch import Tensor, nn

from fairbench.attacks import Ball, resolve
from fairbench.attacks.fab import fab_t


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_linear_model_is_broken_at_the_smallest_distance(norm: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).requires_grad_(False)
    net[1].bias.copy_(net[1].weight.sum(1) / -2)  # type: ignore[union-attr,operator]
    x = 0.25 + 0.5 * random_images(300)
    z = net(x)
    y = z.argmax(1)
    weight = net[1].weight  # type: ignore[union-attr]
    w = weight[y][:, None] - weight[None]  # type: ignore[index]
    margins = z.gather(1, y[:, None]) - z
    dual = {"Linf": w.abs().sum(2), "L2": w.norm(dim=2), "L1": w.abs().amax(2)}[norm]
    needed = (margins / dual).scatter(1, y[:, None], torch.inf).amin(1)
    eps = min(0.25, float(needed.median()))
    broken = net(fab_t(net, x, y, eps=eps, norm=norm, steps=20, rng=image_rng(300))).argmax(1) != y  # type: ignore[arg-type]
    # `needed` does not know the box, which no pixel has to leave for an eps this small
    assert not broken[needed > 1.001 * eps].any()
    assert 0.1 < float((needed < 0.97 * eps).float().mean()) < 0.9
    assert broken[needed < 0.97 * eps].all()


def test_the_first_step_by_hand() -> None:
    """One linear boundary at 0.62 along one pixel: the walk oversteps it by a twentieth and comes back to it."""
    seen: list[float] = []

    class Line(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            position = x.flatten(1)
            seen.append(float(position.detach()[0, 0]))
            return torch.cat((torch.zeros_like(position), position - 0.62), 1)

    x, y = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    found = fab_t(Line(), x, y, eps=0.1, steps=2, rng=image_rng(1))
    # targets; gradient at x; check at x + 1.05 * 0.12; 0.9 of the way to there; then 1.05 times what is left
    back = 0.5 + 0.9 * 0.126
    near, far = 0.62 - back, 0.12
    share = near / (near + far)
    again = (1 - share) * (back + 1.05 * near) + share * (0.5 + 1.05 * far)
    assert seen[:5] == pytest.approx([0.5, 0.5, 0.626, back, again], abs=1e-5)
    assert torch.equal(found, x)
    assert float(fab_t(Line(), x, y, eps=0.13, steps=2, rng=image_rng(1))) == pytest.approx(0.626)


def test_the_final_search_comes_closer_than_the_steps() -> None:
    """One step ends at 0.626; the boundary is at 0.62, and eps allows 0.6205, which only the search can find."""

    class Line(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            position = x.flatten(1)
            return torch.cat((torch.zeros_like(position), 3 * (position - 0.62) - 1e-4), 1)

    x, y = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    found = fab_t(Line(), x, y, eps=0.1205, steps=1, rng=image_rng(1))
    assert Line()(found).argmax(1).item() in (0, 1)
    assert float(found) < 0.6206


def test_name_resolves_and_flat_models_survive() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.0 * x.flatten(1)[:, :3] + torch.tensor([1.0, 0.0, 0.0])

    x, y = random_images(3), torch.tensor([0, 0, 0])
    assert torch.equal(resolve("fab-t:targets=2,steps=3", Ball("Linf", 0.1)).craft(Flat(), x, y, image_rng(3)), x)
