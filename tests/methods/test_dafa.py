from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.method.composition import resolve_method
from fairbench.methods.dafa import class_weights


def test_class_weights_by_hand():
    confusion = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5]])
    # Class 0 takes 0.3*0.8 from class 1, class 2 takes 0.25*0.8; classes 0 and 2 tie.
    torch.testing.assert_close(class_weights(confusion, 1.0), torch.tensor([1.24, 0.56, 1.2]))
    torch.testing.assert_close(class_weights(confusion, 0.5), torch.tensor([1.12, 0.78, 1.1]))


def test_ties_are_no_ops():
    assert class_weights(torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.6, 0.2], [0.1, 0.3, 0.6]]), 1.5).tolist() == [1.0] * 3


def _reference(confusion: np.ndarray, lam: float) -> np.ndarray:
    own, weights = confusion.diagonal(), np.ones(len(confusion))
    for i in range(len(own)):
        for j in range(len(own)):
            if i != j and own[i] < own[j]:
                weights[i] += lam * confusion[i, j] * own[j]
            elif i != j and own[i] > own[j]:
                weights[i] -= lam * confusion[j, i] * own[i]
    return weights


@given(classes=st.integers(2, 12), seed=st.integers(0, 99), lam=st.floats(0, 2), ties=st.booleans())
def test_class_weights_match_the_paper_s_loop_and_sum_to_c(classes, seed, lam, ties):
    confusion = softmax(3 * np.random.default_rng(seed).normal(size=(classes, classes)), axis=1)
    if ties:
        confusion[1] = np.roll(confusion[0], 1)
    weights = class_weights(torch.from_numpy(confusion), lam)
    np.testing.assert_allclose(weights, _reference(confusion, lam), atol=1e-12)
    assert float(weights.sum()) == pytest.approx(classes)


@pytest.mark.parametrize(("epochs", "warm_up"), [(110, 70), (60, 38), (30, 19), (3, 2), (2, 1), (1, 0)])
def test_the_warm_up_is_a_share_of_the_run_and_leaves_an_epoch(epochs, warm_up):
    rehearsal = Rehearsal(resolve_method("dafa"))
    rehearsal.context.epochs = epochs
    rehearsal.method.setup(rehearsal.context)
    assert [policy.warm_up_epochs for policy in rehearsal.method.policies] == [warm_up, warm_up]


def test_the_weights_come_from_the_warm_up_s_last_epoch_and_stay():
    rehearsal = Rehearsal(resolve_method("dafa", {"dafa_weights.lam": 1.5, "dafa_margins.lam": 1.5}))
    rehearsal.context.epochs = 3  # a warm-up of two
    rehearsal.method.setup(rehearsal.context)
    weights, margins = rehearsal.method.policies
    rehearsal.epoch()
    assert weights.vectors()["weight_clean"].tolist() == [1.0] * 4
    rehearsal.begin()
    steps = [rehearsal.step(batch) for batch in rehearsal.batches]
    rehearsal.end()
    y = torch.cat([step.batch.y for step in steps]).numpy()
    p = softmax(torch.cat([step.output.logits_adv for step in steps]).detach().double().numpy(), axis=1)
    confusion = np.stack([p[y == c].mean(axis=0) for c in range(4)])
    expected = np.maximum(_reference(confusion, 1.5), 0.05)
    for vector in (weights.vectors()["weight_clean"], margins.vectors()["margin"], margins.vectors()["step"]):
        np.testing.assert_allclose(vector, expected, rtol=1e-5)
    rehearsal.epoch()
    np.testing.assert_allclose(weights.class_weight, expected, rtol=1e-5)


def test_a_weight_never_falls_to_zero():
    rehearsal = Rehearsal(resolve_method("dafa", {"dafa_weights.lam": 1000.0}))
    rehearsal.epoch()
    assert float(rehearsal.method.policies[0].class_weight.min()) == pytest.approx(0.05)


def test_the_clean_term_is_weighted_and_the_ball_scaled_but_not_the_regulariser():
    rehearsal = Rehearsal(resolve_method("dafa"))
    scale = torch.tensor([0.5, 1.0, 1.5, 2.0])
    for policy in rehearsal.method.policies:
        policy.class_weight = scale
    rehearsal.begin()
    step = rehearsal.step(rehearsal.batches[0])
    reach = (step.attacked.x_adv - step.original).abs().flatten(1).amax(dim=1)
    assert (reach <= 0.1 * scale[step.batch.y] + 1e-6).all()
    assert (reach[step.batch.y == 3] > 0.11).any()
    values, y = torch.ones(4), torch.arange(4)
    assert float(rehearsal.method.mean(values, y, "weight_clean")) == pytest.approx(1.25)
    assert float(rehearsal.method.mean(values, y, "weight_adv")) == pytest.approx(1.0)


def test_training_moves_the_weights_and_ends_elsewhere_than_its_base(train_tiny):
    dafa, base = train_tiny("dafa"), train_tiny("trades")
    assert not torch.equal(dafa.weights, base.weights)
    states = [rows for name, rows in dafa.state.items() if name.endswith("class_weight")]
    assert len(states) == 2
    for first, second in states:
        assert len(set(first)) > 1
        assert first == second
        assert sum(first) == pytest.approx(3, abs=1e-5)
