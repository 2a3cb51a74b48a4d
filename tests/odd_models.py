"""A small network, its images, and attacks, for tests of models with odd habits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fairbench import evaluate

ATTACKS = ["pgd-5:rel_step=0.5", "apgd-dlr-5", "apgd-t:steps=3", "fab-t-3", "square:queries=5"]


ENSEMBLES = ["autoattack-fast:queries=5,steps=3", "autoattack:queries=5,steps=3"]


EPS = 0.1


def conv_net() -> nn.Sequential:
    """The same small network at every call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))


def labelled(n: int = 10) -> tuple[Tensor, Tensor]:
    """Images [n,1,6,6] and the classes that `conv_net` gives them."""
    x = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, conv_net()(x).argmax(1)


class Wrapped(nn.Module):
    """A network between two functions."""

    def __init__(self, before: Callable[[Tensor], Tensor] = lambda x: x, after: Callable[[Any], Any] = lambda z: z):
        super().__init__()
        self.network, self.before, self.after = conv_net(), before, after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.network(self.before(x)))


def verdicts_of(model: Any, attacks: list[str], **how: Any) -> dict[str, list[int]]:
    """The verdicts of `evaluate`, as lists."""
    report = evaluate(model, how.pop("data", None) or labelled(), attacks=attacks, eps=EPS, flags=False, **how)
    return {attack: verdict.tolist() for attack, verdict in report.verdicts.items()}
