from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.losses import cross_entropy
from fairbench.method.composition import resolve_method
from fairbench.methods.csr import confusions, gradient_matrix
from fairbench.methods.trades import trades_loss
from fairbench.run.plan import plan
from fairbench.suites.suite import load_suite


def test_the_gradient_matrix_by_hand():
    # One column of errors, (0, 3, 4): u is (0, 0.6, 0.8) and v the first class, so u v^T has 0 to 0.8 in that column.
    found = gradient_matrix(torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [4.0, 0.0, 0.0]], dtype=torch.float64))
    np.testing.assert_allclose(found, [[0.01, 0.01, 0.01], [1.51, 0.01, 0.01], [2.01, 0.01, 0.01]], atol=1e-12)


def test_where_no_confusion_stands_out_all_weigh_alike():
    for errors in (torch.zeros(4, 4), 1 - torch.eye(4)):
        torch.testing.assert_close(gradient_matrix(errors), torch.full((4, 4), 1.01))


@settings(deadline=None)
@given(seed=st.integers(0, 1000), classes=st.integers(3, 12))
def test_the_gradient_matrix_is_that_of_the_spectral_norm_but_for_its_scale(seed, classes):
    rng = np.random.default_rng(seed)
    errors = rng.integers(0, 50, size=(classes, classes)).astype(float)
    np.fill_diagonal(errors, 0)
    values = np.linalg.svd(errors, compute_uv=False)
    assume(values[0] > 1.05 * values[1])
    found = gradient_matrix(torch.from_numpy(errors))
    assert (float(found.min()), float(found.max())) == (pytest.approx(0.01), pytest.approx(2.01))
    matrix = torch.from_numpy(errors).requires_grad_()
    torch.linalg.matrix_norm(matrix, ord=2).backward()
    gradient = matrix.grad.numpy()
    scaled = 0.01 + 2 * (gradient - gradient.min()) / np.ptp(gradient)
    np.testing.assert_allclose(found, scaled, atol=1e-9)


def test_errors_count_predictions_that_lie_little_below_the_true_class():
    logits = torch.tensor([[2.0, 1.9, 0.0], [2.0, 1.7, 0.0], [0.0, 1.0, 5.0], [3.0, 0.0, 1.0], [-2.0, -1.9, -5.0]])
    found = confusions(logits, torch.tensor([0, 0, 2, 2, 0]), 0.9)
    # 1.8 < 1.9 makes the first an error; -1.8 > -1.9 saves the last.
    assert found.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_before_each_epoch_the_attacked_training_images_give_the_matrix():
    rehearsal = Rehearsal(resolve_method("csr"))
    method, found = rehearsal.method, []
    for epoch in range(2):
        rehearsal.begin()
        found.append(method.gradient.clone())
        if epoch == 0:
            rehearsal.go()
            rehearsal.end()
    assert (float(found[0].min()), float(found[0].max())) == (pytest.approx(0.01), pytest.approx(2.01))
    assert not torch.equal(*found)


def test_the_loss_by_its_terms():
    rehearsal = Rehearsal(resolve_method("csr"))
    rehearsal.begin()
    batch, _, attacked = rehearsal.attack(rehearsal.batches[0])
    output = rehearsal.method.loss(rehearsal.model, batch, attacked)
    clean, adv, y = output.logits_clean, output.logits_adv, batch.y
    g = rehearsal.method.gradient[adv.argmax(dim=1), y]
    expected = trades_loss(clean, adv, y, 6.0) - 0.3 * cross_entropy(clean, y).mean()
    expected = expected + 0.3 * (g * (g.log() - adv.log_softmax(dim=1)[torch.arange(len(y)), y])).mean()
    torch.testing.assert_close(output.loss, expected)


def test_the_network_sees_clean_and_adversarial_images_twice():
    rehearsal = Rehearsal(resolve_method("csr"))
    rehearsal.begin()
    batch, _, attacked = rehearsal.attack(rehearsal.batches[0])
    seen = []
    rehearsal.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0] is batch.x))
    rehearsal.method.loss(rehearsal.model, batch, attacked)
    assert seen == [True, False, True, False]


def test_it_fine_tunes_for_two_epochs_to_a_hundred_and_ten_of_the_warm_start():
    suite = load_suite("digits").override({"warm_start.recipe": {"epochs": 110}})
    start, run = plan(suite, methods=["csr"])
    assert (start.role, run.warm_start) == ("warm-start", start)
    assert (run.recipe.epochs, run.recipe.lr, run.recipe.schedule) == (2, 0.001, "constant")


def test_training_ends_elsewhere_than_without_the_term(train_tiny):
    assert not torch.equal(train_tiny("csr").weights, train_tiny("csr", {"csr.spectral": 0.0}).weights)
