from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.losses import cross_entropy
from fairbench.method.composition import resolve_method
from fairbench.method.record import AttackOutput
from fairbench.methods.codat import class_distribution

losses = st.lists(st.floats(0, 10), min_size=2, max_size=30).map(np.array)
some = st.lists(st.floats(0, 10), min_size=2, max_size=8).map(np.array)


def worst(values: object, radius: float) -> np.ndarray:
    return class_distribution(torch.as_tensor(np.asarray(values, dtype=np.float64)), radius).numpy()


def test_by_hand():
    # mean 2, standard deviation sqrt(2/3): p = (1 + sqrt(0.06) (l - 2) / sqrt(2/3)) / 3
    np.testing.assert_allclose(worst([1, 2, 3], 0.06), np.array([0.7, 1.0, 1.3]) / 3, atol=1e-12)
    # a ball that reaches the edge: two classes are left, with p^2 + (1 - p)^2 = 1.7/3 and so p = 1/2 + sqrt(1/30)
    p = 0.5 + np.sqrt(1 / 30)
    np.testing.assert_allclose(worst([0, 2, 3], 0.7), [0, 1 - p, p], atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("radius", [0.0, 0.5, 5.0])
def test_equal_losses_and_no_radius_give_the_uniform_distribution(classes, radius):
    np.testing.assert_allclose(worst(np.full(classes, 0.1), radius), 1 / classes, atol=1e-12)
    np.testing.assert_allclose(worst(np.linspace(0, 1, classes), 0.0), 1 / classes, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_the_largest_radius_gives_the_worst_class_alone_and_ties_share(classes):
    values = np.linspace(0, 1, classes)
    np.testing.assert_allclose(worst(values, classes - 1), np.eye(classes)[-1], atol=1e-6)
    values[-2:] = 1.0
    np.testing.assert_allclose(worst(values, classes - 1)[-2:], 0.5, atol=1e-12)


@settings(deadline=None)
@given(losses=losses, radius=st.floats(0, 30))
def test_it_is_a_distribution_in_the_ball_that_favours_large_losses(losses, radius):
    p, classes = worst(losses, radius), len(losses)
    assert p.sum() == pytest.approx(1)
    assert (p >= 0).all()
    assert classes * ((p - 1 / classes) ** 2).sum() <= radius + 1e-9
    order = np.argsort(losses, kind="stable")
    assert (np.diff(p[order]) >= -1e-9).all()


@settings(deadline=None)
@given(losses=losses, share=st.floats(0, 1))
def test_in_the_interior_the_value_is_the_mean_plus_standard_deviations(losses, share):
    assume(losses.std() > 1e-3)
    radius = share / (len(losses) - 1)  # below it no weight reaches 0, whatever the losses
    assert worst(losses, radius) @ losses == pytest.approx(losses.mean() + np.sqrt(radius) * losses.std(), rel=1e-6)


@settings(deadline=None)
@given(losses=some, radius=st.floats(0.01, 8))
def test_no_distribution_in_the_ball_has_a_larger_mean(losses, radius):
    classes = len(losses)
    assume(losses.std() > 0.05)
    found = minimize(
        lambda p: -p @ losses,
        np.full(classes, 1 / classes),
        jac=lambda p: -losses,
        bounds=[(0, 1)] * classes,
        constraints=[
            {"type": "eq", "fun": lambda p: p.sum() - 1},
            {"type": "ineq", "fun": lambda p: radius - classes * ((p - 1 / classes) ** 2).sum()},
        ],
    )
    assume(found.success)
    assert worst(losses, radius) @ losses >= -found.fun - 1e-4


def test_the_loss_weighs_the_means_of_the_classes_in_the_batch():
    rehearsal = Rehearsal(resolve_method("codat"))
    batch = rehearsal.batches[0]
    part = batch.y != 2
    batch = type(batch)(batch.x[part], batch.y[part], batch.index[part])
    output = rehearsal.method.loss(rehearsal.model, batch, AttackOutput(batch.x))
    values = cross_entropy(output.logits_adv, batch.y).detach()
    means = torch.stack([values[batch.y == c].mean() for c in (0, 1, 3)])
    assert output.loss.item() == pytest.approx(float(class_distribution(means, 0.5) @ means), rel=1e-5)


def test_training_ends_elsewhere_than_its_base_and_the_radius_matters(train_tiny):
    codat = train_tiny("codat")
    assert not torch.equal(codat.weights, train_tiny("sat").weights)
    assert not torch.equal(codat.weights, train_tiny("codat", {"codat.radius": 1.5}).weights)
