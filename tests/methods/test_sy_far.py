from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.losses import cross_entropy
from fairbench.method.composition import resolve_method
from fairbench.methods.sy_far import symmetry_penalty


def test_the_penalty_by_hand():
    # Class 0 is taken for 1 by 0.4 on average, 1 for 0 by 0.1: 0.5 * 0.3 / (0.5 + 0.1).
    logits = torch.tensor([[0.5, 0.5], [0.7, 0.3], [0.1, 0.9]], dtype=torch.float64).log()
    assert symmetry_penalty(logits, torch.tensor([0, 0, 1]), 0.1).item() == pytest.approx(0.25)
    # Without a sample of class 1 its row is 0: what is taken for it counts in full.
    assert symmetry_penalty(logits[:2], torch.tensor([0, 0]), 0.1).item() == pytest.approx(0.4 * 0.4 / 0.5)


def test_symmetric_confusions_cost_nothing():
    logits = torch.tensor([[0.6, 0.3, 0.1], [0.3, 0.5, 0.2], [0.1, 0.2, 0.7]], dtype=torch.float64).log()
    assert symmetry_penalty(logits, torch.arange(3), 0.1).item() == pytest.approx(0, abs=1e-12)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 8), size=st.integers(1, 20), eps=st.floats(0.01, 1))
def test_the_penalty_agrees_with_a_reference(seed, classes, size, eps):
    rng = np.random.default_rng(seed)
    logits, y = rng.normal(scale=2, size=(size, classes)), rng.integers(0, classes, size)
    p, confusion, expected = softmax(logits, axis=1), np.zeros((classes, classes)), 0.0
    for c in np.unique(y):
        confusion[c] = p[y == c].mean(axis=0)
    for i in range(classes):
        for j in range(i + 1, classes):
            a, b = confusion[i, j], confusion[j, i]
            expected += (a + b) * abs(a - b) / (a + b + eps)
    found = symmetry_penalty(torch.from_numpy(logits), torch.from_numpy(y), eps)
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_loss_is_sat_with_a_light_clean_term_and_the_penalty():
    rehearsal = Rehearsal(resolve_method("sy_far"))
    batch, _, attacked = rehearsal.attack(rehearsal.batches[0])
    output = rehearsal.method.loss(rehearsal.model, batch, attacked)
    clean, adv = (cross_entropy(logits, batch.y).mean() for logits in (output.logits_clean, output.logits_adv))
    expected = 0.1 * clean + adv + 10 * symmetry_penalty(output.logits_adv, batch.y, 0.1)
    torch.testing.assert_close(output.loss, expected)


def test_training_ends_elsewhere_than_without_the_penalty(train_tiny):
    assert not torch.equal(train_tiny("sy_far").weights, train_tiny("sy_far", {"sy_far.symmetry": 0.0}).weights)
