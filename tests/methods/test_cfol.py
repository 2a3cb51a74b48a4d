from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.method.composition import resolve_method
from fairbench.methods.cfol import class_distribution, update_scores

scores = st.lists(st.floats(-20, 20), min_size=2, max_size=20).map(np.array)


def test_scores_by_hand():
    y, error = torch.tensor([0, 0, 1, 2]), torch.tensor([True, True, False, True])
    p = torch.tensor([0.5, 0.25, 0.25])
    found = update_scores(torch.tensor([1.0, 2.0, 3.0]), y, error, p, 0.1)
    torch.testing.assert_close(found, torch.tensor([1.4, 2.0, 3.4]))


def test_a_batch_without_errors_leaves_the_scores():
    before = torch.tensor([0.3, -0.2, 7.0])
    found = update_scores(before, torch.arange(3), torch.zeros(3, dtype=torch.bool), torch.full((3,), 1 / 3), 0.1)
    assert torch.equal(found, before)


@settings(deadline=None)
@given(scores=scores, seed=st.integers(0, 1000), eta=st.floats(0, 1))
def test_scores_match_a_reference(scores, seed, eta):
    rng, classes = np.random.default_rng(seed), len(scores)
    y, error, p = rng.integers(0, classes, 16), rng.random(16) < 0.5, rng.dirichlet(np.ones(classes)) + 0.01
    expected = scores.copy()
    for label, wrong in zip(y, error, strict=True):
        expected[label] += eta * wrong / p[label]
    found = update_scores(*(torch.from_numpy(value) for value in (scores, y, error, p)), eta)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_the_expected_movement_of_the_scores_does_not_depend_on_the_probabilities():
    rng, errors, draws = np.random.default_rng(0), np.array([0.1, 0.5, 0.9]), 200_000
    for p in ([1 / 3, 1 / 3, 1 / 3], [0.6, 0.3, 0.1]):
        y = rng.choice(3, size=draws, p=p)
        wrong = rng.random(draws) < errors[y]
        given = (torch.from_numpy(value) for value in (np.zeros(3), y, wrong, np.array(p)))
        np.testing.assert_allclose(update_scores(*given, 1 / draws), errors, atol=0.01)


def test_the_class_distribution_by_hand():
    base = torch.tensor([0.5, 0.5])
    torch.testing.assert_close(
        class_distribution(torch.tensor([3.0, 1.0]).log(), 0.5, base), torch.tensor([0.625, 0.375])
    )
    torch.testing.assert_close(
        class_distribution(torch.zeros(2), 0.25, torch.tensor([0.9, 0.1])), torch.tensor([0.6, 0.4])
    )


@settings(deadline=None)
@given(scores=scores, gamma=st.floats(0.01, 1))
def test_no_class_has_less_than_its_share_of_the_uniform_part(scores, gamma):
    classes = len(scores)
    p = class_distribution(
        torch.from_numpy(scores), gamma, torch.full((classes,), 1 / classes, dtype=torch.float64)
    ).numpy()
    np.testing.assert_allclose(p, gamma / classes + (1 - gamma) * softmax(scores), atol=1e-12)
    assert p.sum() == pytest.approx(1)
    assert (p >= gamma / classes - 1e-12).all()
    assert (p <= gamma / classes + 1 - gamma + 1e-12).all()


def test_eta_keeps_the_authors_product_with_images_and_epochs():
    rehearsal = Rehearsal(resolve_method("cfol"), counts=(10, 20, 30, 40))
    assert rehearsal.method.policies[0].eta * 100 * rehearsal.context.epochs == pytest.approx(40)


def test_each_batch_is_drawn_by_the_errors_of_those_before():
    rehearsal = Rehearsal(resolve_method("cfol"), counts=(40, 40, 40, 40))
    policy, wrong = rehearsal.method.policies[0], torch.zeros(4)
    rehearsal.begin()
    for number in range(len(rehearsal.batches)):
        p, before = rehearsal.method.sampling(), policy.scores.clone()
        step = rehearsal.step(rehearsal.drawn(number))
        error = step.output.logits_adv.argmax(dim=1) != step.batch.y
        torch.testing.assert_close(policy.scores, update_scores(before, step.batch.y, error, p, policy.eta))
        wrong += torch.bincount(step.batch.y[error], minlength=4)
    assert policy.scores.argmax() == wrong.argmax()
    policy.scores = torch.tensor([100.0, 0.0, 0.0, 0.0])
    counts = torch.bincount(torch.cat([rehearsal.drawn(n).y for n in range(len(rehearsal.batches))]), minlength=4)
    assert counts[0] > 0.5 * counts.sum() > 0
    assert (counts[1:] > 0).all()


def test_training_draws_other_images_than_its_base_and_the_scores_matter(train_tiny):
    cfol, sat = train_tiny("cfol"), train_tiny("sat")
    assert not torch.equal(cfol.weights, sat.weights)
    assert not torch.equal(cfol.weights, train_tiny("cfol", {"cfol.travel": 0.0}).weights)
    assert len(set(cfol.state["scores"][0])) > 1
