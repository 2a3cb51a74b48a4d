from __future__ import annotations

import logging
import sys
from unittest.mock import patch

import pytest
import torch
from pyautoattack import AutoAttack, checks
from torch import Tensor, nn

from fairbench.attacks import Ball, ImageRNG, frozen, resolve
from fairbench.attacks.auto import components
from fairbench.errors import InvalidInput

CHEAP = "autoattack:queries=100,batch_size=16"


def _net(classes: int, scale: float = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, classes)).eval()
    for parameter in net.parameters():
        parameter.data.mul_(scale)
    return net


def _data(net: nn.Module, n: int = 24) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)
    y[0] = (y[0] + 1) % 3
    return x, y


def _directly(net: nn.Module, x: Tensor, y: Tensor, eps: float, attacks: list[str], targets: int) -> Tensor:
    ensemble = AutoAttack(net, attacks=attacks, eps=eps, seed=5, version="custom")
    ensemble.apgd.n_restarts = ensemble.fab.n_restarts = 1
    ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = targets
    ensemble.square.n_queries = 100
    with patch.object(checks, "check_dynamic"):  # it replaces the trace function, which ends a measurement of coverage
        x_adv = ensemble.run_standard_evaluation(x, y, batch_size=16)[0]
    return net(x_adv).argmax(1)


@pytest.mark.parametrize(
    ("classes", "eps", "attacks"),
    [
        pytest.param(10, 0.03, ["apgd-ce", "apgd-t", "fab-t", "square"], marks=pytest.mark.slow),
        (10, 0.03, ["apgd-ce", "square"]),
        (4, 0.05, ["apgd-t"]),
        (3, 0.05, ["apgd-ce", "apgd-dlr", "fab-t", "square"]),
    ],
)
def test_verdicts_are_those_of_pyautoattack(classes: int, eps: float, attacks: list[str]) -> None:
    net = _net(classes, 2.0)
    x, y = _data(net)
    with frozen(net):
        expected = _directly(net, x, y, eps, attacks, targets=min(9, classes - 1))
        # below four classes the adapter itself must choose apgd-dlr
        asked = CHEAP if len(attacks) == 4 else f"{CHEAP},attacks={'+'.join(attacks)}"
        craft = resolve(asked, Ball("Linf", eps)).craft
        x_adv = craft(net, x, y, ImageRNG(5, torch.arange(len(x))))
        assert torch.equal(net(x_adv).argmax(1), expected)
    broken = expected != y
    assert 0 < int(broken.sum()) < len(y)
    assert torch.equal(x_adv[~broken], x[~broken])
    assert float((x_adv - x).abs().max()) <= eps + 1e-6
    assert all(parameter.grad is None for parameter in net.parameters())


def test_gradients_and_images_of_any_memory_layout_will_do() -> None:
    class PixelsFirst(nn.Module):
        """The gradient of a permutation is a permuted view, which cannot be viewed as flat."""

        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.linear(x.permute(0, 2, 3, 1).flatten(1))
            return logits

    torch.manual_seed(0)
    net = PixelsFirst(nn.Linear(108, 4)).requires_grad_(False)
    x, y = _data(net, 6)
    craft = resolve(f"{CHEAP},attacks=fab-t+apgd-ce+apgd-t+square", Ball("Linf", 0.15)).craft
    rng = ImageRNG(0, torch.arange(6))
    plain = craft(net, x, y, rng)
    assert torch.equal(craft(net, x.to(memory_format=torch.channels_last), y, rng), plain)
    assert not torch.equal(plain, x)


def test_nothing_is_left_behind(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    net = _net(3)
    x, y = _data(net, 4)
    logger, state = logging.getLogger("auto-attack"), torch.random.get_rng_state()

    with caplog.at_level(logging.DEBUG), patch.object(sys, "settrace") as replaced:
        craft = resolve("autoattack:attacks=apgd-ce", Ball("Linf", 0.01)).craft
        craft(net, x, y, ImageRNG(0, torch.arange(4)))
    assert not replaced.called  # a measurement of coverage or a debugger goes on
    assert not caplog.records
    assert capsys.readouterr() == ("", "")
    assert not logger.disabled
    assert torch.equal(torch.random.get_rng_state(), state)


def test_logits_that_are_not_finite_end_in_one_error() -> None:
    class Late(nn.Module):
        """Finite on clean images, NaN on any other."""

        def forward(self, x: Tensor) -> Tensor:
            logits = x.flatten(1)[:, :4] * 0.1
            return logits + (0.0 / (x.flatten(1).amax(1, keepdim=True) <= 0.75))

    x, y = torch.full((2, 1, 6, 6), 0.75), torch.tensor([0, 0])
    with pytest.raises(InvalidInput, match="logits are not finite"):
        resolve("autoattack", Ball("Linf", 0.1)).craft(Late(), x, y, ImageRNG(0, torch.arange(2)))


@pytest.mark.parametrize(
    ("wanted", "classes", "expected"),
    [
        (["apgd-ce", "apgd-t", "fab-t", "square"], 10, ["apgd-ce", "apgd-t", "fab-t", "square"]),
        (["apgd-ce", "apgd-t", "fab-t", "square"], 4, ["apgd-ce", "apgd-t", "fab-t", "square"]),
        (["apgd-ce", "apgd-t", "fab-t", "square"], 3, ["apgd-ce", "apgd-dlr", "fab-t", "square"]),
        (["apgd-ce", "apgd-t", "fab-t", "square"], 2, ["apgd-ce", "fab-t", "square"]),
        (["apgd-dlr", "apgd-t"], 3, ["apgd-dlr"]),
    ],
)
def test_components_for_few_classes(wanted: list[str], classes: int, expected: list[str]) -> None:
    assert components(wanted, classes) == expected


def test_no_component_left_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="runs on 2 classes"):
        components(["apgd-t"], 2)
