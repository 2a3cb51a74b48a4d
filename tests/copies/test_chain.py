from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from fairbench.copies.chain import Chain
from fairbench.copies.dense import DenseConv


def _chain(*layers: nn.Module, shape: tuple[int, ...] = (2, 8, 8)) -> Chain | None:
    """Layers as a chain, their first convolution written out as that of a small image would be."""
    network = nn.Sequential(*layers).eval().requires_grad_(False)
    traced = fx.symbolic_trace(network)
    ShapeProp(traced).propagate(torch.rand(1, *shape))
    traced.set_submodule("0", DenseConv(network[0], shape))  # type: ignore[arg-type]
    return Chain.of(traced)


def _first() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(2, 4, 3, padding=1)


def _loss(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


@pytest.mark.parametrize("count", [1, 5, 130])
@pytest.mark.parametrize(
    "second",
    [
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "padding": 1, "bias": False},
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2},
    ],
)
def test_logits_and_gradients_are_those_of_the_network(second: dict[str, int], count: int) -> None:
    first = _first()
    layers = [first, nn.Conv2d(4, 6, **second), nn.ReLU(), nn.Conv2d(6, 4, 3, 2, padding=1), nn.ReLU(), nn.Flatten()]  # type: ignore[arg-type]
    width = nn.Sequential(*layers)(torch.rand(1, 2, 8, 8)).shape[1]
    network = nn.Sequential(*layers, nn.Linear(width, 3, bias=count > 1))
    chain = _chain(*network)
    assert chain is not None
    x, y = torch.rand(count, 2, 8, 8), torch.arange(count) % 3
    z = x.clone().requires_grad_()
    wanted = network(z)
    (slope,) = torch.autograd.grad(_loss(wanted, y).sum(), z)
    logits, gradient = chain.logits_and_gradient(x, _loss, y)
    assert torch.allclose(logits, wanted, atol=1e-5)
    assert torch.allclose(gradient, slope, atol=1e-5)
    again = chain(z)
    assert torch.equal(again, logits)
    assert torch.equal(torch.autograd.grad(_loss(again, y).sum(), z)[0], gradient)
    assert not chain(x).requires_grad


def test_a_chain_follows_changed_weights() -> None:
    network = nn.Sequential(_first(), nn.Conv2d(4, 4, 3, 2, padding=1), nn.Flatten(), nn.Linear(64, 3))
    chain, x, y = _chain(*network), torch.rand(3, 2, 8, 8), torch.arange(3)
    assert chain is not None
    with torch.no_grad():
        for part in (network[1], network[3]):
            part.weight.mul_(2.0)
    chain.load()
    z = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(_loss(network(z), y).sum(), z)
    logits, gradient = chain.logits_and_gradient(x, _loss, y)
    assert torch.allclose(logits, network(x), atol=1e-5)
    assert torch.allclose(gradient, slope, atol=1e-5)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Flatten(), nn.Linear(256, 3), nn.ReLU()],
        [nn.Flatten(), nn.Linear(256, 3), nn.Linear(3, 3)],
        [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)],
        [nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)],
        [nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(256, 3)],
        [nn.Flatten()],
    ],
)
def test_what_is_no_chain(layers: list[nn.Module]) -> None:
    """Other layers; the ReLU after a convolution that is written out belongs to that one."""
    assert _chain(_first(), *layers) is None


def test_a_network_with_branches_is_none() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = _first(), nn.Linear(256, 3)

        def forward(self, x: Tensor) -> Tensor:
            z = self.conv(x)
            logits: Tensor = self.head((z + z.relu()).flatten(1))
            return logits

    traced = fx.symbolic_trace(Residual())
    ShapeProp(traced).propagate(torch.rand(1, 2, 8, 8))
    assert Chain.of(traced) is None
