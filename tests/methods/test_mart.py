from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax

from fairbench.methods.mart import mart_loss, mart_terms
from miniature import trained


def test_terms_by_hand():
    clean, adv = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)  # (3/4, 1/4) and (1/2, 1/2)
    boosted, doubted = mart_terms(clean, adv, torch.tensor([0]))
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert boosted.item() == pytest.approx(math.log(2) - math.log(0.5001), rel=1e-5)
    assert doubted.item() == pytest.approx(0.25 * kl, rel=1e-5)


def test_terms_agree_with_float64():
    rng = np.random.default_rng(0)
    (clean, adv), y = rng.normal(0, 3, (2, 32, 10)), rng.integers(0, 10, 32)
    natural, p, rows = softmax(clean, axis=1), softmax(adv, axis=1), np.arange(32)
    wrong = np.where(np.eye(10, dtype=bool)[y], 0, p).max(axis=1)
    boosted = -np.log(p[rows, y]) - np.log(1.0001 - wrong + 1e-12)
    doubted = (1.0000001 - natural[rows, y]) * (natural * (np.log(natural) - np.log(p))).sum(axis=1)
    ours = mart_terms(*(torch.from_numpy(array) for array in (clean, adv, y)))
    np.testing.assert_allclose(ours[0].numpy(), boosted, rtol=1e-4)
    np.testing.assert_allclose(ours[1].numpy(), doubted, rtol=1e-4, atol=1e-6)


def test_the_loss_weighs_samples_and_doubts_by_hand():
    clean, adv = torch.tensor([[math.log(3), 0.0]] * 2), torch.zeros(2, 2)
    y, boosted = torch.tensor([0, 1]), math.log(2) - math.log(0.5001)
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert mart_loss(clean, adv, y, 5.0).item() == pytest.approx(boosted + 5 * (0.25 + 0.75) / 2 * kl, rel=1e-5)
    beta, weight = torch.tensor([4.0, 2.0]), torch.tensor([1.0, 3.0])
    expected = ((boosted + 4 * 0.25 * kl) + 3 * (boosted + 2 * 0.75 * kl)) / 2
    assert mart_loss(clean, adv, y, beta, weight=weight).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_flows_through_both_predictions_and_stays_finite_where_they_are_certain():
    clean = torch.tensor([[1.0, 0.0, 0.0], [0.0, 30.0, 0.0]], requires_grad=True)
    adv = torch.tensor([[0.0, 1.0, 0.0], [60.0, 0.0, 0.0]], requires_grad=True)
    boosted, doubted = mart_terms(clean, adv, torch.tensor([0, 1]))
    assert boosted[1].item() == pytest.approx(60 - math.log(1e-4), rel=1e-3)
    (boosted + doubted).sum().backward()
    for logits in (clean, adv):
        assert torch.isfinite(logits.grad).all()
        assert logits.grad[0].abs().min() > 0


def test_the_regulariser_acts_and_training_is_not_that_of_sat(tmp_path):
    weights, _ = trained(tmp_path, "mart")
    assert not torch.equal(weights, trained(tmp_path, "mart", beta=0.0)[0])
    assert not torch.equal(weights, trained(tmp_path, "sat")[0])
