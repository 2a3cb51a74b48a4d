from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from torch import nn

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.data.batch import Batch
from fairbench.method.composition import resolve_method
from fairbench.methods.frl import class_weights, limit_multipliers, remargin_loss
from fairbench.methods.trades import trades_loss
from fairbench.run.plan import plan
from fairbench.suites.suite import load_suite
from fairbench.train.loop import learning_rate

vectors = st.lists(st.floats(0, 1), min_size=2, max_size=100)


def _policy(name="frl", settings=None):
    return Rehearsal(resolve_method(name, settings)).method.policies[0]


def test_class_weights_by_hand():
    weights = class_weights(torch.tensor([0.2, 0.0, 0.0, 0.1]))
    torch.testing.assert_close(weights, torch.tensor([0.375, 0.175, 0.175, 0.275]))


@settings(deadline=None)
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


@settings(deadline=None)
@given(seed=st.integers(0, 1000), beta=st.floats(0, 6))
def test_the_joint_loss_agrees_with_float64(seed, beta):
    rng = np.random.default_rng(seed)
    (clean, adv), y = rng.normal(scale=2, size=(2, 9, 4)), rng.integers(0, 4, 9)
    w0, w1 = rng.uniform(0.05, 1, size=(2, 4))
    log_p, log_q = log_softmax(clean, axis=1), log_softmax(adv, axis=1)
    natural, boundary = -log_p[np.arange(9), y], (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    expected = (natural * w0[y] + beta * boundary * w1[y]).sum() / (w0[y] + w1[y]).sum()
    found = remargin_loss(*(torch.from_numpy(value) for value in (clean, adv, y, w0, w1)), beta)
    assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_with_equal_weights_the_joint_loss_is_half_of_trades():
    clean, adv = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    y, weights = torch.arange(8) % 4, torch.full((4,), 0.25)
    found = remargin_loss(clean, adv, y, weights, weights, 1.5)
    torch.testing.assert_close(found, trades_loss(clean, adv, y, 1.5) / 2)


def test_remargin_trains_by_the_joint_loss():
    rehearsal = Rehearsal(resolve_method("frl_remargin"))
    policy = rehearsal.method.policies[0]
    policy.natural, policy.stretch = torch.tensor([0.2, 0.0, 0.0, 0.1]), torch.tensor([0.3, 0.0, -0.1, 0.1])
    batch, _, attacked = rehearsal.attack(rehearsal.batches[0])
    output = rehearsal.method.loss(rehearsal.model, batch, attacked)
    w0 = class_weights(policy.natural)
    expected = remargin_loss(output.logits_clean, output.logits_adv, batch.y, w0, torch.full((4,), 0.25), 1.0)
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize(("name", "step"), [("frl_reweight", 1.0), ("frl_remargin", 1.0), ("frl", np.exp(0.6))])
def test_the_step_is_a_quarter_of_the_largest_ball_in_the_batch_and_fixed_in_remargin(name, step):
    rehearsal = Rehearsal(resolve_method(name))
    rehearsal.method.policies[0].stretch = torch.tensor([0.3, 0.1, -0.2, 0.5])
    batch = rehearsal.batches[0]
    part = batch.y != 3  # the largest margin is none of this batch's
    rehearsal.method.augment(Batch(batch.x[part], batch.y[part], batch.index[part]))
    found = rehearsal.method.per_sample("step", torch.arange(4))
    np.testing.assert_allclose(found, np.full(4, step), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "epochs", "halvings"),
    [("frl", 40, [39]), ("frl_remargin", 120, [39, 79, 119]), ("frl_remargin", 6, [1, 3, 5])],
)
def test_the_rate_of_the_weights_is_halved_before_the_fortieth_update(name, epochs, halvings):
    policy = _policy(name)
    policy.context.epochs, natural, moved = epochs, torch.tensor([0.1, 0.0, 0.0, 0.0]), []
    for epoch in range(epochs):
        policy.context.epoch, policy.natural = epoch, torch.zeros(4)
        policy.update(natural, natural)
        moved.append(float(policy.natural[0]))
    expected = [0.005 * 0.5 ** sum(epoch >= halving for halving in halvings) for epoch in range(epochs)]
    np.testing.assert_allclose(moved, expected, rtol=1e-5)


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
    base = train_tiny("trades_remargined" if name == "frl_remargin" else "trades_finetuned")
    assert not torch.equal(trained.weights, base.weights)
    moved = ["natural", "boundary"] if name == "frl_reweight" else ["natural", "stretch"]
    assert any(value != 0 for state in moved for row in trained.state[state] for value in row)


@pytest.mark.parametrize(("name", "epochs"), [("frl", 40), ("frl_reweight", 40), ("frl_remargin", 120)])
def test_after_a_warm_start_of_110_epochs_it_has_the_epochs_of_its_script(name, epochs):
    suite = load_suite("digits").override({"recipe.epochs": 10, "warm_start.recipe": {"epochs": 110}})
    start, run = plan(suite, methods=[name])
    assert (start.role, start.method.name, run.warm_start) == ("warm-start", "sat", start)
    assert (start.recipe.epochs, run.recipe.epochs, run.recipe.lr) == (110, epochs, 0.001)
    rates = [learning_rate(run.recipe, epoch / epochs) for epoch in range(epochs)]
    expected = [0.001 * 0.1 ** (epoch // 40) for epoch in range(epochs)]
    assert rates == pytest.approx(expected)
