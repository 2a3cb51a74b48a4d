from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fairbench.authoring import check
from fairbench.authoring.rehearsal import Rehearsal
from fairbench.data.batch import Batch
from fairbench.method.composition import resolve_method
from fairbench.methods.frl import class_weights, limit_multipliers
from fairbench.run.plan import plan
from fairbench.suites.suite import load_suite

vectors = st.lists(st.floats(0, 1), min_size=2, max_size=100)


def _policy(name="frl", settings=None):
    return Rehearsal(resolve_method(name, settings)).method.policies[0]


@pytest.mark.parametrize("name", ["frl_reweight", "frl_remargin", "frl", "absld+frl_weights", "absld+frl_margins"])
def test_it_keeps_the_contract(name):
    assert [str(finding) for finding in check(name) if not finding.passed] == []


def test_class_weights_by_hand():
    weights = class_weights(torch.tensor([0.2, 0.0, 0.0, 0.1]))
    torch.testing.assert_close(weights, torch.tensor([0.375, 0.175, 0.175, 0.275]))


@given(multipliers=vectors, limit=st.floats(0.05, 0.95))
def test_weights_of_limited_multipliers_are_positive_and_sum_to_one(multipliers, limit):
    limited = limit_multipliers(torch.tensor(multipliers, dtype=torch.float64), limit)
    weights, raw = class_weights(limited), np.array(multipliers)
    expected = raw * min(1.0, limit / max(raw.sum(), 1e-300))
    np.testing.assert_allclose(limited, expected, atol=1e-12)
    np.testing.assert_allclose(weights, 1 / len(raw) + expected - expected.sum() / len(raw), atol=1e-12)
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0).all()


def test_multipliers_are_clamped_at_zero_and_scaled_to_the_limit():
    assert limit_multipliers(torch.tensor([-1.0, 0.25, 0.75]), 0.5).tolist() == [0.0, 0.125, 0.375]
    assert limit_multipliers(torch.tensor([-1.0, 0.125, 0.25]), 0.5).tolist() == [0.0, 0.125, 0.25]


def test_without_a_violation_all_weights_are_one_in_c():
    policy = _policy()
    policy.update(torch.tensor([0.0, -0.1, -0.2, -0.3]), torch.full((4,), -0.1))
    for name in ("weight_clean", "weight_adv"):
        assert policy.vectors()[name].tolist() == [0.25] * 4


def test_one_update_by_hand():
    policy = _policy()
    natural, boundary = torch.tensor([0.2, -0.2, -0.1, 0.0]), torch.tensor([0.3, -0.1, 0.0, -0.2])
    policy.update(natural, boundary)
    torch.testing.assert_close(policy.natural, torch.tensor([0.01, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(policy.boundary, torch.tensor([0.03, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(policy.stretch, torch.tensor([0.06, -0.02, 0.0, -0.04]))
    found = policy.vectors()
    torch.testing.assert_close(found["weight_clean"], torch.tensor([0.2575, 0.2475, 0.2475, 0.2475]))
    torch.testing.assert_close(found["weight_adv"], torch.tensor([0.2725, 0.2425, 0.2425, 0.2425]))
    torch.testing.assert_close(found["margin"], torch.tensor([np.exp(0.12), 0.98, 1.0, 0.98], dtype=torch.float32))
    torch.testing.assert_close(found["step"], torch.full((4,), float(np.exp(0.12))))
    for _ in range(20):
        policy.update(natural, boundary)
    assert policy.vectors()["margin"][0] == 3.0
    assert float(policy.boundary.sum()) == pytest.approx(0.5)


def test_remargin_leaves_the_boundary_term_alone():
    policy = _policy("frl_remargin")
    policy.update(torch.tensor([0.2, 0.0, 0.0, 0.0]), torch.tensor([0.5, 0.0, 0.0, 0.0]))
    assert policy.vectors()["weight_adv"].tolist() == [0.25] * 4
    assert policy.vectors()["weight_clean"][0] > 0.25
    assert float(policy.vectors()["margin"][0]) == pytest.approx(np.exp(0.1))


class _Pixels(nn.Module):
    """Logits are the first pixels: robust up to half of the difference between two of them."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * x[:, 0, 0, :4]


def test_errors_are_those_of_the_attacked_method_split():
    policy = _policy(settings={"frl.bound": 0.0})
    context = policy.context
    context.model = _Pixels()
    x, y = torch.full((8, 3, 8, 8), 0.5), torch.arange(8) % 4
    # The largest pixel decides: class 0 is wrong once, class 1 falls to an attack of 0.1 once, the rest withstands it.
    for row, (pixel, height) in enumerate(
        [(1, 0.4), (1, 0.4), (2, 0.4), (3, 0.4), (0, 0.4), (1, 0.1), (2, 0.4), (3, 0.4)]
    ):
        x[row, 0, 0, pixel] += height
    context.method_split = Batch(x, y, torch.arange(8))
    policy.begin_epoch(context)
    natural, boundary = np.array([0.5, 0, 0, 0]), np.array([0, 0.5, 0, 0])
    for found, error, rate in ((policy.natural, natural, 0.05), (policy.boundary, boundary, 0.1)):
        np.testing.assert_allclose(found, np.maximum(rate * (error - error.mean()), 0), atol=1e-7)
    np.testing.assert_allclose(policy.stretch, 0.2 * (boundary - boundary.mean()), atol=1e-7)


def test_each_term_is_a_weighted_mean_over_the_batch():
    rehearsal = Rehearsal(resolve_method("frl_reweight"))
    policy = rehearsal.method.policies[0]
    policy.natural, policy.boundary = torch.tensor([0.3, 0.0, 0.0, 0.0]), torch.tensor([0.0, 0.4, 0.0, 0.0])
    values, y = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 1])
    for name in ("weight_clean", "weight_adv"):
        weights = policy.vectors()[name][y].numpy()
        expected = (values.numpy() * weights).sum() / weights.sum()
        assert float(rehearsal.method.mean(values, y, name)) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["frl_reweight", "frl_remargin", "frl"])
def test_training_moves_the_multipliers_and_ends_elsewhere_than_its_base(name, train_tiny):
    part = "frl_weights" if name == "frl_reweight" else "frl_margins"
    trained = train_tiny(name, {f"{part}.bound": 0.0})
    base = train_tiny("trades_finetuned", {"beta": 1.0} if name == "frl_remargin" else {})
    assert not torch.equal(trained.weights, base.weights)
    moved = ["natural", "boundary"] if name == "frl_reweight" else ["natural", "stretch"]
    assert any(value != 0 for state in moved for row in trained.state[state] for value in row)


def test_it_fine_tunes_a_warm_start_for_a_share_of_the_epochs():
    suite = load_suite("digits").override({"recipe.epochs": 10})
    start, run = plan(suite, methods=["frl"])
    assert (start.role, start.method.name, run.warm_start) == ("warm-start", "sat", start)
    assert (start.recipe.epochs, run.recipe.epochs, run.recipe.lr, run.recipe.schedule) == (10, 4, 0.001, "constant")
