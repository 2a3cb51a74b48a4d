from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.method.composition import resolve_method
from fairbench.method.held_out import attacked_split
from fairbench.methods.trades import trades_terms
from fairbench.methods.wat import class_weights


def test_class_weights_by_hand():
    # softmax(ln 1, ln 2, ln 5) is 1/8, 2/8, 5/8, and there are two classes beside the mean.
    weights = class_weights(torch.tensor([1.0, 2.0, 5.0]).log() / 0.1, eta=0.1)
    torch.testing.assert_close(weights, torch.tensor([0.25, 0.5, 1.25]))


@pytest.mark.parametrize("classes", [3, 10, 100])
def test_equal_costs_give_every_expert_c_over_c_plus_one(classes):
    weights = class_weights(torch.full((classes + 1,), 7.3), eta=0.1)
    torch.testing.assert_close(weights, torch.full((classes + 1,), classes / (classes + 1)))


@given(costs=st.lists(st.floats(0, 1000), min_size=3, max_size=101), eta=st.floats(0, 1))
def test_class_weights_match_a_reference_and_sum_to_c(costs, eta):
    weights = class_weights(torch.tensor(costs, dtype=torch.float64), eta)
    np.testing.assert_allclose(weights, (len(costs) - 1) * softmax(eta * np.array(costs)), atol=1e-9)
    assert float(weights.sum()) == pytest.approx(len(costs) - 1)


def test_the_first_epoch_is_twice_trades():
    wat, trades = Rehearsal(resolve_method("wat")), Rehearsal(resolve_method("trades"))
    assert wat.method.policies[0].vectors()["weight"].tolist() == [2.0] * 4
    losses = []
    for rehearsal in (wat, trades):
        rehearsal.begin()
        losses.append(float(rehearsal.step(rehearsal.batches[0]).output.loss.detach()))
    assert losses[0] == pytest.approx(2 * losses[1])


def test_costs_of_the_attacked_method_split_are_summed_over_the_epochs():
    rehearsal = Rehearsal(resolve_method("wat"))
    policy, total = rehearsal.method.policies[0], np.zeros(5)
    for _ in range(2):
        rehearsal.begin()
        rehearsal.go()
        seen = attacked_split(rehearsal.context, steps=rehearsal.context.recipe.attack_steps, objective="kl")
        natural, boundary = trades_terms(seen.clean, seen.adv, seen.y)
        cost, y = (natural + 6 * boundary).double().numpy(), seen.y.numpy()
        total += [*(cost[y == c].mean() for c in range(4)), cost.mean()]
        rehearsal.end()
        np.testing.assert_allclose(policy.cumulative_cost, total, rtol=1e-5)
        expected = 4 * softmax(0.1 * total)
        np.testing.assert_allclose(policy.vectors()["weight"], expected[:4] + expected[4], rtol=1e-5)


def test_training_moves_the_weights_and_ends_elsewhere_than_its_base(train_tiny):
    wat, base = train_tiny("wat"), train_tiny("trades")
    assert not torch.equal(wat.weights, base.weights)
    assert len(set(wat.state["weight"][0])) == 3
    assert wat.state["weight"][0] != wat.state["weight"][1]
    # With eta 0 all classes weigh the same, so that what differs above is not the sum of the weights alone.
    assert not torch.equal(wat.weights, train_tiny("wat", {"wat.eta": 0.0}).weights)
