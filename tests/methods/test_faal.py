from __future__ import annotations

import cvxpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.losses import cross_entropy
from fairbench.method.composition import resolve_method
from fairbench.methods.faal import class_distribution, class_values
from fairbench.run.plan import plan
from fairbench.suites.suite import load_suite

values = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=100).map(np.array)


def _divergence(p: np.ndarray) -> float:
    return float(-np.mean(np.log(len(p) * p)))


def test_the_distribution_of_two_classes_by_hand():
    # KL(uniform || (p, 1-p)) = r where 4p(1-p) = exp(-2r); with r = ln(5/3): p(1-p) = 0.09 and the larger p is 0.9.
    for value in ([0.0, 1.0], [-3.0, 5.0]):
        p = class_distribution(torch.tensor(value, dtype=torch.float64), float(np.log(5 / 3)))
        np.testing.assert_allclose(p, [0.1, 0.9], rtol=1e-9)


@pytest.mark.parametrize("classes", [3, 10, 100])
@pytest.mark.parametrize("radius", [0.0, 0.5, 3.0])
def test_equal_values_give_the_uniform_distribution(classes, radius):
    for value in (-2.5, 0.0, 1e-6, 7.0):
        p = class_distribution(torch.full((classes,), value), radius)
        torch.testing.assert_close(p, torch.full((classes,), 1 / classes), rtol=1e-6, atol=0)


@given(value=values)
def test_radius_zero_gives_the_uniform_distribution(value):
    p = class_distribution(torch.from_numpy(value), 0.0)
    np.testing.assert_allclose(p, 1 / len(value), rtol=1e-6)


@given(value=values, radius=st.floats(0.01, 3), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_the_distribution_lies_on_the_edge_of_the_ball_and_ranks_as_the_values_do(value, radius, scale, shift):
    p = class_distribution(torch.from_numpy(value), radius).numpy()
    assert p.sum() == pytest.approx(1)
    assert (p > 0).all()
    assert (np.diff(p[np.argsort(value, kind="stable")]) >= -1e-12).all()
    if np.ptp(value) > 1e-3:
        assert _divergence(p) == pytest.approx(radius, rel=1e-6, abs=1e-9)
        moved = class_distribution(torch.from_numpy(scale * value + shift), radius)
        np.testing.assert_allclose(moved, p, rtol=1e-5, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 20), radius=st.floats(0.05, 2))
def test_the_distribution_is_the_optimum_that_cvxpy_finds(seed, classes, radius):
    value = np.random.default_rng(seed).normal(size=classes) * 5
    p = cvxpy.Variable(classes)
    ball = -cvxpy.sum(cvxpy.log(p)) / classes - np.log(classes) <= radius
    problem = cvxpy.Problem(cvxpy.Maximize(value @ p), [cvxpy.sum(p) == 1, ball])
    problem.solve(solver=cvxpy.CLARABEL)
    found = class_distribution(torch.from_numpy(value), radius).numpy()
    np.testing.assert_allclose(found, p.value, atol=2e-4)
    assert found @ value == pytest.approx(problem.value, abs=1e-4)
    assert _divergence(found) <= radius + 1e-9


def test_half_precision_and_large_spreads_stay_finite():
    for value in (torch.tensor([1e6, -1e6, 0.0]), torch.tensor([1e-30, 0.0, 0.0]), torch.tensor([4.0, 4.0, -60.0])):
        p = class_distribution(value, 0.5)
        assert torch.isfinite(p).all()
        assert float(p.sum()) == pytest.approx(1)


def test_class_values_by_hand_and_against_a_reference():
    logits = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1]]).log()
    expected = torch.tensor([(0.3 - 0.6) + (0.7 - 0.2), 0.5 - 0.4, 0.0])
    torch.testing.assert_close(class_values(logits, torch.tensor([0, 0, 1]), 3), expected)
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(50, 7)), rng.integers(0, 6, 50)
    p, sums = softmax(z, axis=1), np.zeros(7)
    for row, label in zip(p, y, strict=True):
        sums[label] += np.delete(row, label).max() - row[label]
    np.testing.assert_allclose(class_values(torch.from_numpy(z), torch.from_numpy(y), 7), sums, rtol=1e-4, atol=1e-5)


def _loss(name, settings=None, labels=None):
    rehearsal = Rehearsal(resolve_method(name, settings))
    rehearsal.begin()
    batch = rehearsal.batches[0]
    if labels is not None:
        batch = type(batch)(batch.x, torch.full_like(batch.y, labels), batch.index)
    step = rehearsal.step(batch)
    return float(step.output.loss.detach()), step


@pytest.mark.parametrize(("name", "base"), [("faal", "sat"), ("faal_trades", "trades")])
def test_radius_zero_gives_the_plain_mean_loss(name, base):
    assert _loss(name, {f"{name}.radius": 0.0})[0] == pytest.approx(_loss(base)[0], rel=1e-6)
    assert _loss(name)[0] != pytest.approx(_loss(base)[0], rel=1e-4)


def test_the_loss_is_c_over_b_times_the_weighted_sum():
    loss, step = _loss("faal")
    logits, y = step.output.logits_adv.detach(), step.batch.y
    p = class_distribution(class_values(logits, y, 4), 0.5)
    assert loss == pytest.approx(float(4 / len(y) * (p[y] * cross_entropy(logits, y)).sum()), rel=1e-5)


def test_training_is_steered_by_the_distribution(train_tiny):
    for name, base in (("faal", "sat"), ("faal_trades", "trades")):
        faal = train_tiny(name).weights
        assert not torch.equal(faal, train_tiny(base).weights)
        assert not torch.equal(faal, train_tiny(name, {f"{name}.radius": 2.0}).weights)


def test_it_fine_tunes_a_warm_start_for_a_share_of_the_epochs():
    suite = load_suite("digits").override({"recipe.epochs": 300, "warm_start.recipe": {"epochs": 110}})
    start, run = plan(suite, methods=["faal"])
    assert (start.role, start.recipe.epochs, run.warm_start) == ("warm-start", 110, start)
    assert (run.recipe.epochs, run.recipe.lr, run.recipe.milestones, run.recipe.gamma) == (2, 0.01, (0.5,), 0.1)
    assert plan(load_suite("digits"), methods=["faal_trades"])[-1].recipe.epochs == 2
