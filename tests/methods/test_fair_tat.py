from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairbench.authoring import check
from fairbench.authoring.rehearsal import Rehearsal
from fairbench.method.composition import resolve_method
from fairbench.methods.fair_tat import draw_targets, target_distribution

rates = st.lists(st.just(0.0) | st.floats(1e-3, 1), min_size=2, max_size=20).map(np.array)


@pytest.mark.parametrize("name", ["fair_tat", "fair_tat+dafa_margins"])
def test_it_keeps_the_contract(name):
    assert [str(finding) for finding in check(name) if not finding.passed] == []


def test_target_distribution_by_hand():
    found = target_distribution(torch.tensor([0.0, 0.25, 0.75]), 0.5)
    expected = torch.tensor([[0.0, 0.375, 0.625], [0.25, 0.0, 0.75], [0.25, 0.75, 0.0]])
    torch.testing.assert_close(found, expected)
    uniform = (1 - torch.eye(3)) / 2
    torch.testing.assert_close(target_distribution(torch.zeros(3), 0.0), uniform)
    torch.testing.assert_close(target_distribution(torch.tensor([0.0, 0.25, 0.75]), 1.0), uniform)


@given(rates=rates, share=st.floats(0, 1))
def test_target_distribution_matches_a_reference(rates, share):
    classes, found = len(rates), target_distribution(torch.from_numpy(rates), share).numpy()
    for y in range(classes):
        uniform = np.full(classes, 1 / (classes - 1))
        uniform[y] = 0
        wrong = np.where(np.arange(classes) == y, 0, rates)
        wrong = wrong / wrong.sum() if wrong.sum() > 0 else uniform
        np.testing.assert_allclose(found[y], share * uniform + (1 - share) * wrong, atol=1e-6)


@given(rates=rates, share=st.floats(0, 1), uniform=st.floats(0, 1 - 2**-24, width=32))
def test_a_target_is_a_class_that_has_a_chance_and_never_the_true_one(rates, share, uniform):
    chances = target_distribution(torch.from_numpy(rates).float(), share)
    target = draw_targets(chances, torch.full((len(rates),), uniform))
    assert (chances.gather(1, target.unsqueeze(1)) > 0).all()
    assert (target != torch.arange(len(rates))).all()


def test_targets_are_drawn_as_often_as_their_chances_say():
    chances = torch.tensor([0.0, 0.125, 0.25, 0.625]).expand(8000, 4)
    target = draw_targets(chances, (torch.arange(8000) + 0.5) / 8000)
    assert torch.bincount(target, minlength=4).tolist() == [0, 1000, 2000, 5000]


def test_the_attack_leads_to_the_target():
    rehearsal = Rehearsal(resolve_method("fair_tat", {"fair_tat.uniform_share": 0.0}))
    rehearsal.method.false_positives = torch.tensor([0.0, 0.0, 1.0, 0.0])
    rehearsal.begin()
    batch = rehearsal.batches[0]
    attacked = rehearsal.attack(batch)[2]
    with torch.no_grad():
        before, after = (rehearsal.model.eval()(x).log_softmax(dim=1)[:, 2] for x in (batch.x, attacked.x_adv))
    assert (after > before)[batch.y != 2].all()
    assert (batch.y != 2).any()


def test_targets_are_new_in_every_epoch_and_the_same_in_any_batch():
    rehearsal = Rehearsal(resolve_method("fair_tat"))
    batch, logits, found = rehearsal.batches[0], torch.eye(4)[torch.zeros(16, dtype=torch.int64)], []
    for epoch in (0, 0, 1):
        rehearsal.context.epoch = epoch
        found.append(rehearsal.method.attack_loss(rehearsal.model, batch, {})(logits).tolist())
    assert found[0] == found[1] != found[2]
    half = type(batch)(batch.x[:8], batch.y[:8], batch.index[:8])
    rehearsal.context.epoch = 0
    assert rehearsal.method.attack_loss(rehearsal.model, half, {})(logits[:8]).tolist() == found[0][:8]


def test_false_positives_count_each_true_class_alike():
    rehearsal = Rehearsal(resolve_method("fair_tat"), counts=(1, 3, 9, 27))
    rehearsal.begin()
    steps = [rehearsal.step(batch) for batch in rehearsal.batches]
    rehearsal.end()
    y = torch.cat([step.batch.y for step in steps]).numpy()
    predicted = torch.cat([step.output.logits_adv for step in steps]).argmax(dim=1).numpy()
    expected = [sum((predicted[y == c] == k).mean() for c in range(4) if c != k) for k in range(4)]
    np.testing.assert_allclose(rehearsal.method.false_positives, expected, rtol=1e-6)


def test_training_counts_false_positives_and_ends_elsewhere_than_its_base(train_tiny):
    fair_tat = train_tiny("fair_tat")
    assert not torch.equal(fair_tat.weights, train_tiny("sat").weights)
    assert len(set(fair_tat.state["false_positives"][0])) > 1
    assert not torch.equal(fair_tat.weights, train_tiny("fair_tat", {"fair_tat.uniform_share": 1.0}).weights)
