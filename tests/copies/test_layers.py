"""Networks that run in C: arithmetic in front of them, shortcuts, means, and functions in place of modules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from compilers import needs_compiler
from torch import Tensor, nn
from torch.nn import functional as F

from fairbench.copies import Rewritten, folded

pytestmark = needs_compiler


class Written(nn.Module):
    """A small network as users write it: `front` before two convolutions, `middle` between, `tail` before the head."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        front: Callable[[Written, Tensor], Tensor] = lambda net, x: x,
        middle: Callable[[Tensor], Tensor] = torch.relu,
        tail: Callable[[Tensor], Tensor] = lambda z: z.flatten(1),
        width: int = 5 * 36,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5]).view(1, 2, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.3]))
        self.one, self.two = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.head = nn.Linear(width, 3)
        self.front, self.middle, self.tail = front, middle, tail

    def forward(self, x: Tensor) -> Tensor:
        z = self.middle(self.one(self.front(self, x)))
        logits: Tensor = self.head(self.tail((z + self.two(z)).relu()))
        return logits


def _agrees(model: nn.Module, *, chained: bool = True) -> Rewritten:
    """Compare the copy's logits and gradients with the model's in float64; returns the copy."""
    model.eval().requires_grad_(False)
    x, weights = torch.rand(37, 2, 6, 6), torch.randn(37, 3, dtype=torch.float64)
    copy = Rewritten(folded(model), x)
    assert (copy.chain is not None) == chained
    model.double()
    z = x.double().requires_grad_()
    wanted = model(z)
    (slope,) = torch.autograd.grad((wanted * weights).sum(), z)
    model.float()
    logits, gradient = copy(x), torch.zeros(0)
    if copy.chain is not None:
        logits, gradient = copy.logits_and_gradient(x, lambda each: (each * weights.float()).sum(1))
        assert torch.allclose(gradient.double(), slope, rtol=1e-4, atol=1e-5 * float(slope.abs().max()))
    assert torch.allclose(logits.double(), wanted.detach(), rtol=1e-4, atol=1e-5)
    return copy


@pytest.mark.parametrize(
    "front",
    [
        lambda net, x: (x - net.mean) / net.std.view(-1, 1, 1),
        lambda net, x: x.sub(net.mean).div(net.std[:, None, None]),
        lambda net, x: torch.div(torch.sub(x, net.mean), 0.25),
        lambda net, x: 2 * x - 1,
        lambda net, x: 1.0 - x,
    ],
)
def test_arithmetic_on_the_pixels_in_front_of_a_network(front: Callable[[Written, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    copy = _agrees(Written(front))
    assert copy.chain is not None


@pytest.mark.parametrize("front", [lambda net, x: 1 / (x + 1), lambda net, x: x * x, lambda net, x: x + x.mean()])
def test_other_arithmetic_runs_by_torch_s_operations(front: Callable[[Written, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    _agrees(Written(front), chained=False)


def test_torchvision_s_normalisation() -> None:
    transforms = pytest.importorskip("torchvision.transforms", reason="comes with the extra zoo")

    class Front(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.normalise, self.network = transforms.Normalize((0.4, 0.5), (0.2, 0.3)), Written()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.network(self.normalise(x))
            return logits

    torch.manual_seed(0)
    _agrees(Front())


@pytest.mark.parametrize(
    ("tail", "width"),
    [
        (lambda z: z.view(z.size(0), -1), 180),
        (lambda z: z.reshape(-1, 180), 180),
        (lambda z: torch.flatten(z, 1), 180),
        (lambda z: z.mean((2, 3)), 5),
        (lambda z: F.adaptive_avg_pool2d(z, 1).flatten(1), 5),
        (lambda z: F.avg_pool2d(z, 6).view(z.shape[0], -1), 5),
    ],
)
def test_functions_in_the_place_of_modules(tail: Callable[[Tensor], Tensor], width: int) -> None:
    torch.manual_seed(0)
    _agrees(Written(tail=tail, width=width))


def test_a_residual_network_whose_shortcut_is_a_convolution() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(2, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1)
            self.bn1, self.bn2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
            self.shortcut = nn.Sequential(nn.Conv2d(2, 6, 1, 2), nn.BatchNorm2d(6))
            self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            z = self.bn2(self.two(F.relu(self.bn1(self.one(x)))))
            z = F.relu(z + self.shortcut(x))
            logits: Tensor = self.head(torch.flatten(self.pool(z), 1))
            return logits

    torch.manual_seed(0)
    model = Block()
    with torch.no_grad():
        model.train()(torch.rand(30, 2, 6, 6))
    _agrees(model)


def test_a_copy_follows_the_buffers_of_its_normalisation() -> None:
    torch.manual_seed(0)
    model = Written(lambda net, x: (x - net.mean) / net.std.view(-1, 1, 1)).eval().requires_grad_(False)
    x = torch.rand(4, 2, 6, 6)
    copy = Rewritten(folded(model), x)
    model.mean.add_(0.1)
    model.std.mul_(2)
    copy.load(model)
    assert torch.allclose(copy(x), model(x), atol=1e-5)
