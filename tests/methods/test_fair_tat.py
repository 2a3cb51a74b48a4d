from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.method.composition import resolve_method
from fairbench.methods.fair_tat import draw_targets, false_positive_share, target_distribution

shares = st.lists(st.floats(0, 1), min_size=2, max_size=20).map(np.array).map(lambda f: f / max(f.sum(), 1e-9))


def test_uniform_shares_give_uniform_targets_over_the_wrong_classes():
    torch.testing.assert_close(target_distribution(torch.full((3,), 1 / 3)), (1 - torch.eye(3)) / 2)
    torch.testing.assert_close(target_distribution(torch.zeros(4)), (1 - torch.eye(4)) / 3)


def test_a_class_that_all_errors_fall_on_is_e_squared_times_as_likely():
    found = target_distribution(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    e = np.exp(2)
    expected = [[0, 1 / (1 + e), e / (1 + e)], [1 / (1 + e), 0, e / (1 + e)], [0.5, 0.5, 0]]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@settings(deadline=None)
@given(share=shares)
def test_target_distribution_matches_a_reference(share):
    found, q = target_distribution(torch.from_numpy(share)).numpy(), softmax(2 * share)
    for y in range(len(share)):
        expected = np.where(np.arange(len(share)) == y, 0, q / (1 - q[y]))
        np.testing.assert_allclose(found[y], expected, atol=1e-9)


@settings(deadline=None)
@given(share=shares, uniform=st.floats(0, 1 - 2**-24, width=32))
def test_a_target_is_never_the_true_class(share, uniform):
    chances = target_distribution(torch.from_numpy(share).float())
    target = draw_targets(chances, torch.full((len(share),), uniform))
    assert (target != torch.arange(len(share))).all()
    assert ((target >= 0) & (target < len(share))).all()


def test_the_share_of_errors_that_fall_on_each_class_by_hand():
    predicted = torch.tensor([[5.0, 1.0, 2.0], [0.0, 7.0, 1.0], [0.0, 0.0, 9.0]])
    assert false_positive_share(predicted).tolist() == [0.0, 0.25, 0.75]
    assert false_positive_share(torch.diag(torch.ones(3))).tolist() == [0.0] * 3


def test_targets_are_drawn_as_often_as_their_chances_say():
    chances = torch.tensor([0.0, 0.125, 0.25, 0.625]).expand(8000, 4)
    target = draw_targets(chances, (torch.arange(8000) + 0.5) / 8000)
    assert torch.bincount(target, minlength=4).tolist() == [0, 1000, 2000, 5000]


def test_the_attack_leads_to_the_target():
    rehearsal = Rehearsal(resolve_method("fair_tat_attacks"))
    rehearsal.method.false_positives = torch.tensor([0.0, 0.0, 50.0, 0.0])  # class 2 for certain
    rehearsal.begin()
    batch = rehearsal.batches[0]
    attacked = rehearsal.attack(batch)[2]
    with torch.no_grad():
        before, after = (rehearsal.model.eval()(x).log_softmax(dim=1)[:, 2] for x in (batch.x, attacked.x_adv))
    assert (after > before)[batch.y != 2].float().mean() > 0.8
    assert after[batch.y != 2].mean() > before[batch.y != 2].mean() + 0.05


def test_the_attack_starts_inside_the_box_and_runs_in_train_mode():
    rehearsal = Rehearsal(resolve_method("fair_tat_attacks"))
    rehearsal.begin()
    batch = rehearsal.batches[0]
    start = rehearsal.method.start(batch)
    assert (start.min(), start.max()) == (0, 1)
    before = rehearsal.model[1].num_batches_tracked.clone()
    step = rehearsal.step(batch)
    # three attack steps, then the adversarial, and twice the clean images
    assert int(rehearsal.model[1].num_batches_tracked - before) == 3 + 3
    assert step.output.logits_clean.grad_fn is None


def test_targets_are_new_in_every_epoch_and_the_same_in_any_batch():
    rehearsal = Rehearsal(resolve_method("fair_tat_attacks"))
    batch, logits, found = rehearsal.batches[0], torch.eye(4)[torch.zeros(16, dtype=torch.int64)], []
    for epoch in (0, 0, 1):
        rehearsal.context.epoch = epoch
        found.append(rehearsal.method.attack_loss(rehearsal.model, batch, {})(logits).tolist())
    assert found[0] == found[1] != found[2]
    half = type(batch)(batch.x[:8], batch.y[:8], batch.index[:8])
    rehearsal.context.epoch = 0
    assert rehearsal.method.attack_loss(rehearsal.model, half, {})(logits[:8]).tolist() == found[0][:8]


def test_false_positives_are_counted_over_the_epoch():
    rehearsal = Rehearsal(resolve_method("fair_tat_attacks"), counts=(1, 3, 9, 27))
    rehearsal.begin()
    steps = [rehearsal.step(batch) for batch in rehearsal.batches]
    rehearsal.end()
    y = torch.cat([step.batch.y for step in steps]).numpy()
    predicted = torch.cat([step.output.logits_adv for step in steps]).argmax(dim=1).numpy()
    wrong = predicted[predicted != y]
    np.testing.assert_allclose(
        rehearsal.method.false_positives, np.bincount(wrong, minlength=4) / len(wrong), rtol=1e-6
    )


def test_margins_follow_the_accuracy_from_the_second_of_two_hundred_epochs():
    rehearsal = Rehearsal(resolve_method("fair_tat"))
    margins, averaging = rehearsal.method.policies
    assert (margins.begin, margins.lambda_1) == (1 / 200, 0.5)
    assert (averaging.averaging_begin, averaging.decay, averaging.threshold) == (0.0, 0.85, 0.2)
    rehearsal.context.epochs = 200
    assert rehearsal.method.vector("margin").tolist() == [1.0] * 4
    rehearsal.epoch()
    torch.testing.assert_close(rehearsal.method.vector("margin"), 0.5 + rehearsal.record.mean("correct_adv"))


def test_training_counts_false_positives_and_ends_elsewhere_than_its_base(train_tiny):
    fair_tat, attacks = train_tiny("fair_tat"), train_tiny("fair_tat_attacks")
    assert not torch.equal(attacks.weights, train_tiny("sat").weights)
    assert not torch.equal(fair_tat.weights, attacks.weights)
    assert len(set(fair_tat.state["false_positives"][0])) > 1
    assert len(set(fair_tat.state["margin"][0])) > 1
