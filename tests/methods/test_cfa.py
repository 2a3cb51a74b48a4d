from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.method.composition import resolve_method
from fairbench.methods.cfa import class_betas, class_margins
from fairbench.methods.trades import trades_loss

accuracies = st.lists(st.floats(0, 1), min_size=2, max_size=100).map(np.array)


def test_margins_and_betas_by_hand():
    accuracy = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert class_margins(accuracy, 0.5).tolist() == [0.5, 0.75, 1.0, 1.5]
    assert class_betas(accuracy, 0.5, 6.0).tolist() == [3.0, 4.5, 6.0, 9.0]


@given(accuracy=accuracies, lam=st.floats(0.1, 1), beta=st.floats(0.1, 10))
def test_margins_and_betas_match_a_reference(accuracy, lam, beta):
    np.testing.assert_allclose(class_margins(torch.from_numpy(accuracy), lam), accuracy + lam)
    np.testing.assert_allclose(class_betas(torch.from_numpy(accuracy), lam, beta), beta * (accuracy + lam))


def test_margins_of_one_are_plain_adversarial_training():
    cfa, sat = Rehearsal(resolve_method("sat+cfa_margins")), Rehearsal(resolve_method("sat"))
    cfa.method.policies[0].margin = class_margins(torch.full((4,), 0.5), 0.5)
    for rehearsal in (cfa, sat):
        rehearsal.begin()
        rehearsal.go()
    for ours, theirs in zip(cfa.model.parameters(), sat.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_betas_of_one_are_trades_over_one_plus_beta():
    rehearsal = Rehearsal(resolve_method("trades_normalised+cfa_betas"))
    rehearsal.method.policies[0].beta = class_betas(torch.full((4,), 0.5), 0.5, 1.0)
    rehearsal.begin()
    step = rehearsal.step(rehearsal.batches[0])
    expected = trades_loss(step.output.logits_clean, step.output.logits_adv, step.batch.y, 6.0) / 7
    torch.testing.assert_close(step.output.loss, expected)


def test_each_class_is_normalised_by_its_own_beta():
    rehearsal = Rehearsal(resolve_method("trades_normalised+cfa_betas"))
    factor = torch.tensor([0.5, 0.75, 1.0, 1.5])
    rehearsal.method.policies[0].beta = factor
    rehearsal.begin()
    step = rehearsal.step(rehearsal.batches[0])
    clean = torch.log_softmax(step.output.logits_clean.detach(), dim=1).double().numpy()
    adv = torch.log_softmax(step.output.logits_adv.detach(), dim=1).double().numpy()
    y = step.batch.y.numpy()
    beta = 6 * factor.double().numpy()[y]
    divergence = (np.exp(clean) * (clean - adv)).sum(axis=1)
    expected = ((-clean[np.arange(len(y)), y] + beta * divergence) / (1 + beta)).mean()
    assert float(step.output.loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_calibration_is_that_of_last_epoch_s_training_attack():
    rehearsal = Rehearsal(resolve_method("cfa_trades"))
    margins, betas, _ = rehearsal.method.policies
    rehearsal.begin()
    steps = [rehearsal.step(batch) for batch in rehearsal.batches]
    rehearsal.end()
    y = torch.cat([step.batch.y for step in steps])
    right = torch.cat([step.output.logits_adv for step in steps]).argmax(dim=1) == y
    accuracy = np.array([right[y == c].double().mean() for c in range(4)])
    np.testing.assert_allclose(margins.vectors()["margin"], 0.3 + accuracy, rtol=1e-6)
    np.testing.assert_allclose(betas.vectors()["beta"], 0.5 + accuracy, rtol=1e-6)


def test_it_begins_after_a_twentieth_of_the_epochs():
    rehearsal = Rehearsal(resolve_method("cfa_sat"))
    rehearsal.context.epochs = 200
    rehearsal.epoch()
    policy = rehearsal.method.policies[0]
    for epoch, in_force in ((8, False), (9, True)):
        rehearsal.context.epoch = epoch
        policy.end_epoch(rehearsal.record)
        assert (policy.vectors()["margin"].tolist() != [1.0] * 4) == in_force


def test_training_moves_margins_and_betas_and_ends_elsewhere_than_its_base(train_tiny):
    for name, base, states in (
        ("sat+cfa_margins", "sat", ["margin"]),
        ("trades_normalised+cfa_margins", "trades_normalised", ["margin"]),
        ("trades_normalised+cfa_betas", "trades_normalised", ["beta"]),
        ("cfa_trades", "trades_normalised", ["margin", "beta"]),
    ):
        cfa = train_tiny(name)
        assert not torch.equal(cfa.weights, train_tiny(base).weights), name
        for state in states:
            assert len(set(cfa.state[state][0])) > 1
    assert not torch.equal(train_tiny("trades_normalised").weights, train_tiny("trades").weights)
