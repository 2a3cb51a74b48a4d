from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from fairbench.authoring import check
from fairbench.authoring.rehearsal import Rehearsal
from fairbench.method.composition import resolve_method
from fairbench.methods.bat import extra_steps, target_imbalance


@pytest.mark.parametrize("name", ["bat", "bat+awp", "bat+cfa_margins"])
def test_it_keeps_the_contract(name):
    assert [str(finding) for finding in check(name) if not finding.passed] == []


def test_extra_steps_by_hand():
    assert extra_steps(torch.tensor([1.0, 2.0, 3.0]), 3.0).tolist() == [1.5, 3.0, 4.5]
    assert extra_steps(torch.zeros(3), 3.0).tolist() == [3.0] * 3


@given(effort=st.lists(st.floats(0, 10), min_size=2, max_size=100).map(np.array), extra=st.floats(0, 10))
def test_extra_steps_match_a_reference(effort, extra):
    found = extra_steps(torch.from_numpy(effort), extra).numpy()
    if effort.mean() > 1e-9:
        np.testing.assert_allclose(found, extra * effort / effort.mean(), atol=1e-9)
        assert found.mean() == pytest.approx(extra, abs=1e-9)


def test_target_imbalance_by_hand_and_against_a_reference():
    logits = torch.tensor([[5.0, 0.0, 0.0], [0.0, 1.0, 4.0]])
    z = np.array([0.0, 4.0])
    expected = [0.0, -np.mean(z - np.log(np.exp(z).sum())) - np.log(2)]
    torch.testing.assert_close(target_imbalance(logits, torch.tensor([0, 1])), torch.tensor(expected).float())
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(20, 6)), rng.integers(0, 6, 20)
    wrong = np.stack(
        [np.delete(p, label) / np.delete(p, label).sum() for p, label in zip(softmax(z, 1), y, strict=True)]
    )
    expected = np.log(1 / 5 / wrong).mean(axis=1)
    np.testing.assert_allclose(target_imbalance(torch.from_numpy(z), torch.from_numpy(y)), expected, atol=1e-5)


def test_the_imbalance_has_a_finite_gradient_that_is_zero_at_the_true_class():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = torch.tensor([0, 1, 2, 0])
    target_imbalance(logits, y).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.gather(1, y.unsqueeze(1)).abs().max() == 0
    assert logits.grad.abs().max() > 0


def _attack(mean_extra: float, effort: list[float]):
    rehearsal = Rehearsal(resolve_method("bat", {"bat.mean_extra": mean_extra, "bat.target_balance": 0.0}))
    rehearsal.context.recipe = rehearsal.context.recipe.model_copy(update={"attack_steps": 6, "attack_rel_step": 0.1})
    rehearsal.method.effort = torch.tensor(effort)
    rehearsal.begin()
    for batch in rehearsal.batches:  # so that the network is right on some samples before the attack
        rehearsal.step(batch)
    batch = rehearsal.batches[0]
    attacked = rehearsal.attack(batch)[2]
    model = rehearsal.model.eval()
    with torch.no_grad():
        crossed_at_start = model(rehearsal.method.start(batch).clamp(0, 1)).argmax(dim=1) != batch.y
        crossed = model(attacked.x_adv).argmax(dim=1) != batch.y
    start = rehearsal.method.start(batch).clamp(0, 1)
    taken = ((attacked.x_adv - start).abs().flatten(1).amax(dim=1) / (0.1 * 0.1)).round()
    return batch.y, attacked.survived, taken, crossed_at_start, crossed


def test_without_extra_steps_a_sample_stops_where_it_crosses_the_boundary():
    _, survived, taken, crossed_at_start, crossed = _attack(0.0, [1.0] * 4)
    assert (taken[crossed_at_start] == 0).all()
    assert (survived[crossed_at_start] == 0).all()
    assert crossed[survived < 6].all()
    assert 0 < int(crossed_at_start.sum()) < len(crossed)
    assert (taken <= survived).all()


def test_after_the_boundary_each_class_takes_its_share_of_steps():
    y, survived, taken, _, _ = _attack(2.0, [0.0, 1.0, 2.0, 1.0])
    extra = torch.tensor([0.0, 2.0, 4.0, 2.0])[y]
    assert (taken <= torch.minimum(survived + extra, torch.tensor(6.0))).all()
    early = survived == 0
    assert (taken[early] == extra[early]).any()
    assert early.any()


def test_training_notes_the_effort_and_ends_elsewhere_than_its_base(train_tiny):
    bat = train_tiny("bat")
    assert not torch.equal(bat.weights, train_tiny("sat").weights)
    assert len(set(bat.state["effort"][0])) > 1
    assert not torch.equal(bat.weights, train_tiny("bat", {"bat.target_balance": 0.0}).weights)
    assert not torch.equal(bat.weights, train_tiny("bat", {"bat.mean_extra": 0.0}).weights)
