from __future__ import annotations

import pytest
import torch
from torch import nn

from fairbench.cost import CostMeter
from fairbench.data.batch import Batch
from fairbench.method.composition import build_method, resolve_method
from fairbench.method.method import Method
from fairbench.method.record import ClassRecord
from fairbench.suites.sections import Recipe, ThreatSection
from fairbench.train.step import accelerate, train_step
from miniature import attach

RATE = 0.5


def _linear(eps: float) -> tuple[Method, nn.Linear, Batch]:
    """SAT on a linear model of four pixels and three classes, whose every step can be computed by hand."""
    torch.manual_seed(0)
    linear = nn.Linear(4, 3)
    model = nn.Sequential(nn.Flatten(), linear)
    recipe = Recipe(batch_size=6, lr=RATE)  # ten steps of eps / 4 cross the ball from any start
    settings = {"threat": ThreatSection(eps=eps), "optimizer": torch.optim.SGD(model.parameters(), lr=RATE)}
    method = attach(build_method(resolve_method("sat")), model, recipe=recipe, **settings)
    x = 0.3 + 0.4 * torch.rand(6, 1, 2, 2)
    return method, linear, Batch(x, torch.tensor([0, 0, 1, 1, 2, 2]), torch.arange(6))


def _adversarial(linear: nn.Linear, batch: Batch, eps: float) -> torch.Tensor:
    """The corner of the ball at which the attack on a linear model ends, float64 [B,4]."""
    x = batch.x.flatten(1).double()
    weight, bias = linear.weight.detach().double(), linear.bias.detach().double()
    wrong = torch.softmax(x @ weight.T + bias, 1) - nn.functional.one_hot(batch.y, 3)
    return (x + eps * (wrong @ weight).sign()).clamp(0, 1)


@pytest.mark.parametrize("eps", [1e-6, 0.05])
def test_a_step_by_hand(eps: float) -> None:
    method, linear, batch = _linear(eps)
    before, bias = linear.weight.detach().double(), linear.bias.detach().double()
    x_adv = _adversarial(linear, batch, eps)
    error = torch.softmax(x_adv @ before.T + bias, 1) - nn.functional.one_hot(batch.y, 3)
    loss = train_step(method, batch, ClassRecord(3, torch.device("cpu")))
    expected = nn.functional.cross_entropy(x_adv @ before.T + bias, batch.y)
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)
    assert not loss.requires_grad
    assert torch.allclose(linear.weight.double(), before - RATE * error.T @ x_adv / 6, atol=1e-5)
    assert torch.allclose(linear.bias.double(), bias - RATE * error.mean(0), atol=1e-5)


def test_the_record_sums_what_the_step_saw_by_class() -> None:
    method, linear, batch = _linear(0.05)
    x_adv = _adversarial(linear, batch, 0.05).float()
    logits = nn.functional.linear(x_adv, linear.weight, linear.bias).detach()
    record = ClassRecord(3, torch.device("cpu"))
    train_step(method, batch, record)
    risk = nn.functional.cross_entropy(logits, batch.y, reduction="none").view(3, 2)
    right = (logits.argmax(1) == batch.y).float().view(3, 2)
    assert torch.allclose(record.mean("ce_adv"), risk.mean(1), atol=1e-5)
    assert torch.allclose(record.mean("correct_adv"), right.mean(1))


def test_an_accelerator_that_runs_eagerly_changes_nothing() -> None:
    weights = []
    for mode in (None, "eager"):
        method, linear, batch = _linear(0.05)
        meter = CostMeter()
        how = None if mode is None else accelerate(method, meter, size=6, mode=mode)
        train_step(method, batch, ClassRecord(3, torch.device("cpu")), how)
        weights.append(linear.weight.detach().clone())
    assert torch.equal(*weights)
