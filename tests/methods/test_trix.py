from __future__ import annotations

import numpy as np
import pytest
import torch

from fairbench.authoring import check
from fairbench.authoring.rehearsal import Rehearsal
from fairbench.losses import cross_entropy
from fairbench.method.composition import resolve_method
from fairbench.methods.trix import strong_classes


@pytest.mark.parametrize("name", ["trix", "trix_attacks", "sat+trix_weights"])
def test_it_keeps_the_contract(name):
    assert [str(finding) for finding in check(name) if not finding.passed] == []


def test_strong_classes_by_hand():
    assert strong_classes(torch.tensor([0.1, 0.3, 0.6, 0.2])).tolist() == [False, False, True, False]
    assert strong_classes(torch.tensor([0.2, 0.4])).tolist() == [False, True]


@pytest.mark.parametrize("classes", [3, 10, 100])
def test_no_class_is_strong_where_all_are_equal(classes):
    for accuracy in (0.0, 0.1, 0.7):
        assert not strong_classes(torch.full((classes,), accuracy)).any()


def test_the_first_epoch_attacks_as_sat_does():
    trix, sat = Rehearsal(resolve_method("trix_attacks")), Rehearsal(resolve_method("sat"))
    found = []
    for rehearsal in (trix, sat):
        rehearsal.begin()
        found.append(rehearsal.attack(rehearsal.batches[0])[2].x_adv)
    assert torch.equal(*found)


def test_strong_classes_are_led_to_a_target_and_weak_ones_away_from_their_label():
    rehearsal = Rehearsal(resolve_method("trix_attacks"))
    rehearsal.method.robust_accuracy = torch.tensor([0.1, 0.9, 0.8, 0.2])
    rehearsal.begin()
    batch = rehearsal.batches[0]
    loss = rehearsal.method.attack_loss(rehearsal.model, batch, {})
    # A row per possible target: only the target's own logit lowers the loss of a strong class's sample.
    per_target = torch.stack([loss(10 * torch.eye(4)[k].expand(len(batch.y), 4)) for k in range(4)], dim=1)
    y, strong = batch.y, (batch.y == 1) | (batch.y == 2)
    target = per_target.argmax(dim=1)
    assert (target[strong] != y[strong]).all()
    assert len(set(target[strong].tolist())) > 1
    logits = torch.randn(len(y), 4, generator=torch.Generator().manual_seed(0))
    expected = torch.where(strong, -cross_entropy(logits, target), cross_entropy(logits, y))
    torch.testing.assert_close(loss(logits), expected)


def test_weights_scale_loss_ball_and_step():
    rehearsal = Rehearsal(resolve_method("trix"))
    scale = torch.tensor([0.5, 1.0, 1.25, 1.25])
    rehearsal.method.policies[0].class_weight = scale
    for vector in ("weight", "margin", "step"):
        np.testing.assert_allclose(rehearsal.method.vector(vector), scale)


def test_training_turns_to_targeted_attacks_and_weights(train_tiny):
    trix, attacks, sat = train_tiny("trix"), train_tiny("trix_attacks"), train_tiny("sat")
    assert not torch.equal(attacks.weights, sat.weights)
    assert not torch.equal(trix.weights, attacks.weights)
    assert len(set(trix.state["robust_accuracy"][0])) > 1
    assert len(set(trix.state["class_weight"][0])) > 1
