from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from torch import Tensor, nn

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.data.batch import Batch
from fairbench.losses import HardLabels
from fairbench.method.composition import resolve_method
from fairbench.methods.bat import BAT, bat_loss, from_uniform
from miniature import set_up


@pytest.mark.parametrize("classes", [2, 10])
def test_without_any_evidence_the_loss_is_that_of_guessing(classes):
    zeros = torch.zeros(3, classes)
    assert bat_loss(zeros, zeros, zeros, torch.tensor([0, 1, 1]), 6.0).item() == pytest.approx(np.log(classes))


def test_distance_from_uniform_by_hand():
    found = from_uniform(torch.tensor([[0.0, 0.0], [np.log(3.0), 0.0], [100.0, 0.0]]))
    expected = [0.0, np.log(2) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25), np.log(2)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), beta=st.floats(0, 10), scale=st.floats(0.1, 5))
def test_the_loss_agrees_with_float64(seed, beta, scale):
    rng = np.random.default_rng(seed)
    last, first, clean = rng.normal(scale=scale, size=(3, 8, 5))
    y, weight = rng.integers(0, 5, 8), rng.uniform(0.5, 2, 8)
    log_last, log_first, log_clean = (log_softmax(z, axis=1) for z in (last, first, clean))
    p_last, p_first, p_clean = (np.exp(z) for z in (log_last, log_first, log_clean))
    values = -log_last[np.arange(8), y] + beta * (p_clean * (log_clean - log_first)).sum(1)
    values += (p_last * (log_last + np.log(5))).sum(1) + (p_first * (log_first + np.log(5))).sum(1)
    given = [torch.from_numpy(value) for value in (last, first, clean, y)]
    assert bat_loss(*given, beta).item() == pytest.approx(values.mean(), rel=1e-5, abs=1e-5)
    found = bat_loss(*given, beta, weight=torch.from_numpy(weight)).item()
    assert found == pytest.approx((weight * values).mean(), rel=1e-5, abs=1e-5)


def test_the_gradient_goes_through_all_three_predictions():
    logits = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    bat_loss(*logits, torch.tensor([0, 1, 2, 0]), 6.0).backward()
    assert (logits.grad.abs().sum(dim=(1, 2)) > 0).all()


class _Ramp(nn.Module):
    """Predicts class 1 from a mean pixel of 0.5 on and class 0 below; every attack step changes the mean equally."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(4.0))

    def forward(self, x: Tensor) -> Tensor:
        middle = self.slope * (x.flatten(1).mean(dim=1) - 0.5)
        return torch.stack([-middle, middle, torch.full_like(middle, -9.0)], dim=1)


def _attacked(*pixels: float, labels: list[int], steps: int = 6, **settings: object) -> tuple[Tensor, Tensor, Tensor]:
    """Mean pixels of the last correct and the first wrong images, and the steps survived; a step moves by 0.03.

    The attack ascends the cross-entropy, because the direction of the divergence follows the random start.
    """
    method = set_up("bat", _Ramp(), **settings)
    method.attack_loss = lambda _, batch, memo: HardLabels(batch.y)
    method.context.recipe = method.context.recipe.model_copy(update={"attack_steps": steps, "attack_rel_step": 0.3})
    x = torch.tensor(pixels).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone()
    attacked = method.attack(method.context.model, Batch(x, torch.tensor(labels), torch.arange(len(labels))))
    images = attacked.x_adv, attacked.memo["first"]
    return *(image.flatten(1).mean(dim=1) for image in images), attacked.survived


def test_each_sample_stops_before_and_just_past_the_boundary():
    # At 0.455 the second step crosses; 0.56 is wrong for class 0 at the start; 0.2 is out of reach.
    last, first, survived = _attacked(0.455, 0.56, 0.2, labels=[0, 0, 0])
    np.testing.assert_allclose(last, [0.485, 0.56, 0.3], atol=1e-3)
    np.testing.assert_allclose(first, [0.545, 0.59, 0.3], atol=1e-3)
    assert survived.tolist() == [2, 0, 6]


def test_without_a_spare_step_the_first_wrong_iterate_is_returned():
    _, first, _ = _attacked(0.455, 0.56, labels=[0, 0], spare_steps=0)
    np.testing.assert_allclose(first, [0.515, 0.56], atol=1e-3)


def test_the_last_iterate_is_not_looked_at():
    # The boundary is crossed by the step after the last look: both attacks return that iterate.
    last, first, survived = _attacked(0.455, labels=[0], steps=2)
    np.testing.assert_allclose([last.item(), first.item()], [0.515, 0.515], atol=1e-3)
    assert survived.tolist() == [2]


def test_both_starts_are_clipped_and_apart(monkeypatch):
    method = set_up("bat", _Ramp())
    batch = Batch(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64), torch.arange(2))
    starts = method.start(batch), method.second_start(batch)
    assert all(start.min() == 0 and 0 < start.max() < 0.01 for start in starts)
    assert not torch.equal(*starts)
    monkeypatch.setattr(BAT, "second_start", BAT.start)  # with one start, what never crosses ends in the same place
    last, first, _ = _attacked(0.2, labels=[0])
    assert torch.equal(last, first)


def test_the_network_sees_last_first_and_clean_in_this_order():
    rehearsal, seen = Rehearsal(resolve_method("bat")), []
    rehearsal.begin()
    batch, _, attacked = rehearsal.attack(rehearsal.batches[0])
    rehearsal.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    rehearsal.method.loss(rehearsal.model, batch, attacked)
    expected = attacked.x_adv, attacked.memo["first"], batch.x
    assert [x is y for x, y in zip(seen, expected, strict=True)] == [True] * 3


def test_training_ends_elsewhere_than_trades_and_the_spare_step_matters(train_tiny):
    bat = train_tiny("bat")
    assert not torch.equal(bat.weights, train_tiny("trades").weights)
    assert not torch.equal(bat.weights, train_tiny("bat", {"bat.spare_steps": 0}).weights)
