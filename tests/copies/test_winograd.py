from __future__ import annotations

import pytest
import torch
from compilers import needs_compiler
from torch import Tensor, nn

from fairbench.copies import winograd
from fairbench.copies.winograd import WinogradConv, pays

pytestmark = needs_compiler


def _conv(taken: int, made: int, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(taken, made, 3, padding=1, bias=bias).requires_grad_(False)


def _exact(conv: nn.Conv2d, x: Tensor, rectified: bool) -> Tensor:
    """The convolution in float64."""
    bias = None if conv.bias is None else conv.bias.double()
    out = nn.functional.conv2d(x.double(), conv.weight.double(), bias, padding=1)
    return out.relu() if rectified else out


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize(
    ("taken", "made", "shape"), [(64, 96, (3, 16, 20)), (96, 64, (70, 4, 4)), (64, 64, (5, 7, 6)), (8, 4, (1, 4, 8))]
)
def test_outputs_and_gradients_are_those_of_the_convolution(
    taken: int, made: int, shape: tuple[int, int, int], rectified: bool
) -> None:
    conv, count = _conv(taken, made, bias=made != 96), shape[0]
    fast = WinogradConv(conv, rectified=rectified)
    x = torch.randn(count, taken, *shape[1:]).requires_grad_()
    wanted, got = _exact(conv, x, rectified), fast(x)
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max()
    weights = torch.randn_like(got)
    weights *= wanted.abs() > 1e-4  # rounding may rectify what is nearly zero otherwise
    (exact,) = torch.autograd.grad((wanted * weights).sum(), x)
    (grad,) = torch.autograd.grad((got * weights).sum(), x)
    assert (grad - exact).abs().max() < 1e-5 * exact.abs().max()


def test_an_image_is_convolved_alike_in_every_batch() -> None:
    """Batches that fill the working memory, leave it half full, or take several turns."""
    fast, x = WinogradConv(_conv(64, 64)), torch.randn(9, 64, 32, 32)
    alone = torch.cat([fast(row) for row in x.split(1)])
    for count in (0, 2, 5, 9):
        assert torch.allclose(fast(x[:count]), alone[:count], atol=1e-5)


def test_the_points_lose_less_to_rounding_than_the_paper_s(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = _conv(64, 64), torch.randn(8, 64, 16, 16)
    wanted, errors = _exact(conv, x, rectified=False), list[float]()
    for a, b in ((5 / 8, 3 / 2), (1.0, 2.0)):
        monkeypatch.setattr(winograd, "_A", a)
        monkeypatch.setattr(winograd, "_B", b)
        errors.append(float((WinogradConv(conv)(x) - wanted).square().mean().sqrt()))
    assert errors[0] < 0.7 * errors[1]


def test_inputs_in_either_order_of_memory() -> None:
    fast, x = WinogradConv(_conv(64, 64)), torch.randn(2, 64, 8, 8)
    made = fast(x.contiguous(memory_format=torch.channels_last))
    assert torch.equal(made, fast(x))
    assert made.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("settings", "side", "taken"),
    [
        ({}, 16, True),
        ({}, 8, True),
        ({"stride": 2}, 16, False),
        ({"padding": 0}, 16, False),
        ({"dilation": 2}, 16, False),
        ({"groups": 2}, 16, False),
        ({"kernel_size": 5}, 16, False),
        ({"padding_mode": "reflect"}, 16, False),
        ({"in_channels": 32}, 32, True),
        ({"out_channels": 31}, 32, False),
        ({"in_channels": 512, "out_channels": 512}, 4, True),
        # most of a tile would be thrown away
        ({"in_channels": 512, "out_channels": 512}, 2, False),
    ],
)
def test_which_convolutions_it_is_for(settings: dict[str, object], side: int, taken: bool) -> None:
    chosen = {"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1, "device": "meta"} | settings
    assert pays(nn.Conv2d(**chosen), side, side) == taken  # type: ignore[arg-type]
