from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compilers import needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from fairbench.copies import chain as chains
from fairbench.copies.chain import Chain
from fairbench.losses import HardLabels

pytestmark = needs_compiler


def _chain(network: nn.Module, shape: tuple[int, ...] = (2, 8, 8)) -> Chain | None:
    traced = fx.symbolic_trace(network.eval().requires_grad_(False))
    ShapeProp(traced).propagate(torch.rand(1, *shape))
    return Chain.of(traced)


def _network(*, classes: int = 3, **second: object) -> nn.Sequential:
    """Two convolutions, the second with the given settings, and a linear layer, for images [2,8,8]."""
    torch.manual_seed(0)
    convolution = {"kernel_size": 3, "stride": 2, "padding": 1} | second
    layers = [nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 11, **convolution), nn.ReLU(), nn.Flatten()]  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.Linear(nn.Sequential(*layers)(torch.rand(1, 2, 8, 8)).shape[1], classes))


def _loss(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def _exact(network: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and gradient in float64."""
    network, z = network.double(), x.double().requires_grad_()
    logits = network(z)
    (gradient,) = torch.autograd.grad(_loss(logits, y).sum(), z)
    network.float()
    return logits.detach(), gradient


def _near(ours: Tensor, exact: Tensor) -> bool:
    return bool((ours - exact).abs().max() <= 1e-5 * exact.abs().max())


@pytest.mark.parametrize("count", [1, 16, 17, 70])
@pytest.mark.parametrize(
    "second",
    [
        {},
        {"stride": 1, "bias": False},
        {"kernel_size": 2, "padding": 0},
        {"padding": 0},
        {"padding": 2, "dilation": 2},
        {"kernel_size": (1, 3), "stride": (1, 2), "padding": (0, 1)},
    ],
)
def test_logits_and_gradients_are_those_of_the_network(second: dict[str, object], count: int) -> None:
    network = _network(**second)
    chain, x, y = _chain(network), torch.rand(count, 2, 8, 8), torch.arange(count) % 3
    assert chain is not None
    wanted, slope = _exact(network, x, y)
    logits, gradient = chain.logits_and_gradient(x, _loss, y)
    assert _near(logits, wanted)
    assert _near(gradient, slope)
    z = x.clone().requires_grad_()
    again = chain(z)
    assert torch.equal(again, logits)
    assert torch.equal(torch.autograd.grad(_loss(again, y).sum(), z)[0], gradient)
    assert torch.equal(chain(x), logits)
    assert not chain(x).requires_grad


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.Flatten(), nn.Linear(18, 4)], (2, 3, 3)),
        ([nn.Flatten(), nn.Linear(18, 33), nn.ReLU(), nn.Linear(33, 4)], (2, 3, 3)),
        ([nn.Conv2d(2, 7, 3), nn.Flatten(), nn.ReLU(), nn.Linear(63, 4)], (2, 5, 5)),
        ([nn.Conv2d(2, 7, 3), nn.ReLU(), nn.Conv2d(7, 4, 3), nn.Flatten()], (2, 5, 5)),
        ([nn.Conv2d(2, 7, 3, 2, 1), nn.ReLU(), nn.Conv2d(7, 4, 3, padding=1), nn.Flatten()], (2, 2, 1)),  # one pixel
    ],
)
def test_other_chains(layers: list[nn.Module], shape: tuple[int, int, int]) -> None:
    network = nn.Sequential(*layers)
    chain, x, y = _chain(network, shape), torch.rand(5, *shape), torch.arange(5) % 4
    assert chain is not None
    logits, gradient = chain.logits_and_gradient(x, _loss, y)
    wanted, slope = _exact(network, x, y)
    assert _near(logits, wanted)
    assert _near(gradient, slope)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(40)), st.integers(1, 40), st.integers(0, 1000))
def test_an_image_s_numbers_do_not_depend_on_its_batch(order: list[int], count: int, seed: int) -> None:
    chain = _chain(_network())
    assert chain is not None
    x = torch.rand(40, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    y, chosen = torch.arange(40) % 3, torch.tensor(order[:count])
    all_logits, all_gradients = chain.logits_and_gradient(x, _loss, y)
    logits, gradients = chain.logits_and_gradient(x[chosen], HardLabels(y[chosen]))
    assert torch.equal(logits, all_logits[chosen])
    assert torch.allclose(gradients, all_gradients[chosen], atol=1e-6)
    assert torch.equal(gradients[:1], chain.logits_and_gradient(x[chosen[:1]], HardLabels(y[chosen[:1]]))[1])


def test_what_is_not_a_number_reaches_the_logits_of_its_image_alone() -> None:
    network = _network()
    chain, x = _chain(network), torch.rand(20, 2, 8, 8)
    assert chain is not None
    clean, (logits, gradient) = chain(x), chain.logits_and_gradient(x, lambda z: z.sum(1))
    x[3, 0, 4, 4], x[5, 1, 0, 0] = torch.nan, torch.inf
    got, slope = chain.logits_and_gradient(x, lambda z: z.sum(1))
    assert torch.equal(got.isnan(), network(x).isnan())
    assert got[3].isnan().all()
    others = [row for row in range(20) if row not in (3, 5)]
    assert torch.equal(got[others], clean[others])
    assert torch.equal(slope[others], gradient[others])
    assert torch.equal(logits, clean)


def test_images_in_any_order_of_memory_and_precision() -> None:
    chain, x = _chain(_network()), torch.rand(6, 2, 8, 8)
    assert chain is not None
    wanted = chain(x)
    for other in (x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert torch.equal(chain(other), wanted)
    assert torch.equal(chain(x.double()), wanted)
    assert chain(x[:0]).shape == (0, 3)
    with pytest.raises(ValueError, match=r"images of shape \(2, 8, 7\), not \(2, 8, 8\)"):
        chain(x[:, :, :, :7])


def test_a_chain_follows_changed_weights() -> None:
    network = _network()
    chain, x, y = _chain(network), torch.rand(3, 2, 8, 8), torch.arange(3)
    assert chain is not None
    before = chain(x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert torch.equal(chain(x), before)
    chain.load()
    logits, gradient = chain.logits_and_gradient(x, _loss, y)
    wanted, slope = _exact(network, x, y)
    assert _near(logits, wanted)
    assert _near(gradient, slope)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(2, 4, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)],
        [nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)],
        [nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(256, 3)],
        [nn.Conv2d(2, 4, 3, padding="same"), nn.Flatten(), nn.Linear(256, 3)],
        [nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.Flatten(), nn.Linear(256, 3)],
        [nn.Conv2d(2, 4, 3, padding=1), nn.Flatten()],
        [nn.Linear(8, 3), nn.Flatten(), nn.Linear(48, 3)],
        [nn.Flatten(2), nn.Flatten(), nn.Linear(128, 3)],
        [nn.Flatten()],
    ],
)
def test_what_is_no_chain(layers: list[nn.Module]) -> None:
    assert _chain(nn.Sequential(*layers)) is None
    assert _chain(nn.Sequential(nn.Flatten(), nn.Linear(128, 3))) is not None


def test_a_network_with_branches_is_none() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(256, 3)

        def forward(self, x: Tensor) -> Tensor:
            z = self.conv(x)
            logits: Tensor = self.head((z + z.relu()).view(x.size(0), -1))
            return logits

    assert _chain(Residual()) is None


def test_large_networks_and_machines_without_a_compiler_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "_LARGE", 1000)
    monkeypatch.setattr(chains, "_SHARED", 1000)
    assert _chain(_network()) is None
    monkeypatch.undo()
    found: list[Path] = []
    monkeypatch.setattr(chains, "library", found.append)
    assert _chain(_network()) is None
    assert [path.name for path in found] == ["chain.c"]
