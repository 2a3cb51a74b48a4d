"""Models whose robust accuracy is known exactly: no attack reports less, and AutoAttack reports exactly that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairbench import evaluate
from fairbench.attacks.projections import AnyNorm

CLASSES, SIDE, IMAGES = 4, 5, 30
EPS: dict[AnyNorm, float] = {"Linf": 0.08, "L2": 0.4, "L1": 0.6}

Floats = NDArray[np.float64]


class Linear(nn.Module):
    """Logits W x + b."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = nn.Linear(SIDE * SIDE, CLASSES)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(CLASSES, SIDE * SIDE, generator=generator))
            self.linear.bias.copy_(-self.linear.weight.sum(1) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))

    def planes(self) -> tuple[Floats, Floats]:
        """Weights [C,D] and biases [C] of affine functions with the same largest one everywhere, in float64."""
        return self.linear.weight.detach().double().numpy(), self.linear.bias.detach().double().numpy()


class NearestPrototype(nn.Module):
    """Logits are the negative Euclidean distances to one point a class."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("prototypes", torch.rand(CLASSES, SIDE * SIDE, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return -(x.flatten(1)[:, None] - self.prototypes).square().sum(2).sqrt()

    def planes(self) -> tuple[Floats, Floats]:
        """-|x - p|^2 + |x|^2 = 2 p x - |p|^2, which has the same order of classes as the distance."""
        points = self.prototypes.double().numpy()
        return 2 * points, -np.square(points).sum(1)


MODELS: dict[str, type[Any]] = {"linear": Linear, "nearest prototype": NearestPrototype}


def most(slope: Floats, room: Floats, eps: float, norm: AnyNorm) -> float:
    """The maximum of sum slope * move with 0 <= move <= room and |move| <= eps, all of them at least 0."""
    if norm == "Linf":
        return float((slope * np.minimum(room, eps)).sum())
    if norm == "L1":  # the steepest first
        order = np.argsort(-slope)
        before = np.concatenate(([0.0], np.cumsum(room[order])[:-1]))
        return float((slope[order] * np.clip(eps - before, 0, room[order])).sum())
    if np.sqrt(np.square(room).sum()) <= eps:
        return float((slope * room).sum())
    low, high = 0.0, 1e9
    for _ in range(200):  # the level at which min(level * slope, room) has length eps
        level = (low + high) / 2
        low, high = (level, high) if np.square(np.minimum(level * slope, room)).sum() < eps**2 else (low, level)
    return float((slope * np.minimum(low * slope, room)).sum())


def exactly_robust(model: Any, x: Tensor, y: Tensor, eps: float, norm: AnyNorm) -> NDArray[np.bool_]:
    """Bool [N]: whether every point of [0,1] within eps of an image has its class."""
    weights, biases = model.planes()
    points, labels = x.flatten(1).double().numpy(), y.numpy()
    found = np.ones(len(points), dtype=bool)
    for number, (point, label) in enumerate(zip(points, labels, strict=True)):
        for other in set(range(CLASSES)) - {label}:
            away = weights[other] - weights[label]
            lead = biases[label] - biases[other] - away @ point
            room = np.where(away > 0, 1 - point, point)
            found[number] &= lead > most(np.abs(away), room, eps, norm)
    return found


def labelled_images(model: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images over all of [0,1], many of them at its edges, with the classes that the model gives them."""
    x = (1.6 * torch.rand(IMAGES, 1, SIDE, SIDE, generator=generator) - 0.3).clamp(0, 1)
    with torch.no_grad():
        return x, model(x).argmax(1)


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_robust_accuracy_of_closed_form_models(kind: str, norm: AnyNorm, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = MODELS[kind](generator)
    x, y = labelled_images(model, generator)
    truth = exactly_robust(model, x, y, EPS[norm], norm)
    assert 1 < truth.sum() < IMAGES - 1  # an attack can be wrong on either side
    gradients = ["fgsm", "pgd-20", "pgd-20:rel_step=0.25", "cw-30", "mim-20", "pgd-t-20"]
    attacks = ["clean", "apgd-ce-10", "apgd-dlr-10", "apgd-t:steps=10", "fab-t-10", "square:queries=50"]
    attacks += [] if norm == "L1" else gradients
    ensembles = ["autoattack-fast:queries=300"]
    ensembles += ["autoattack:queries=200,steps=50"] if norm == "L1" and seed else []
    report = evaluate(model, (x, y), attacks=[*attacks, *ensembles], norm=norm, eps=EPS[norm], flags=False)
    for attack, predicted in report.verdicts.items():
        broken = predicted != y.numpy()
        assert not (broken & truth).any(), f"{attack} breaks an image that cannot be broken"
    for whole in ensembles:
        assert (report.verdicts[whole] == y.numpy()).sum() == truth.sum(), whole


@pytest.mark.parametrize("norm", EPS)
def test_the_closed_form_is_that_of_a_search(norm: AnyNorm) -> None:
    """On two pixels, where the ball can be searched point by point."""
    random, steps = np.random.default_rng(0), np.linspace(-1, 1, 801)
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    size = {"Linf": np.abs(grid).max(1), "L2": np.sqrt(np.square(grid).sum(1)), "L1": np.abs(grid).sum(1)}[norm]
    for _ in range(5):
        slope, room, eps = random.random(2), random.random(2), random.uniform(0.2, 0.9)
        inside = grid[(size <= eps) & (grid >= 0).all(1) & (grid <= room).all(1)]
        assert most(slope, room, eps, norm) == pytest.approx((inside @ slope).max(), abs=0.01)
