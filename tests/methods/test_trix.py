from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.losses import cross_entropy, kl_divergence
from fairbench.method.composition import resolve_method
from fairbench.methods.trix import batch_weights, strong_classes


def _logits(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def test_batch_weights_by_hand():
    # The mean predictions are S = [[0.5, 0.5], [0.2, 0.8]]: class 0 gains S01 S11 = 0.4, which class 1 loses.
    clean, y = _logits([0.4, 0.6], [0.6, 0.4], [0.2, 0.8]), torch.tensor([0, 0, 1])
    np.testing.assert_allclose(batch_weights(clean, y, 1.0), [1.4, 0.6], atol=1e-6)
    np.testing.assert_allclose(batch_weights(clean, y, 0.5), [1.2, 0.8], atol=1e-6)


def test_ties_take_from_both_as_in_the_script():
    clean = _logits([0.7, 0.3], [0.3, 0.7])
    np.testing.assert_allclose(batch_weights(clean, torch.tensor([0, 1]), 1.0), [1 - 0.21, 1 - 0.21], atol=1e-6)


def _reference(logits: np.ndarray, y: np.ndarray, lam: float) -> np.ndarray:
    classes = logits.shape[1]
    p, w = softmax(logits, axis=1), np.ones(classes)
    s = np.stack([p[y == c].mean(axis=0) if (y == c).any() else np.zeros(classes) for c in range(classes)])
    s += 1e-8 * np.eye(classes)
    for i in range(classes):
        for j in range(classes):
            if i != j:
                w[i] += lam * (s[i, j] * s[j, j] if s[i, i] < s[j, j] else -s[j, i] * s[i, i])
    return w


@settings(deadline=None)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 12), size=st.integers(1, 30), lam=st.floats(0.1, 2))
def test_batch_weights_match_a_reference(seed, classes, size, lam):
    rng = np.random.default_rng(seed)
    logits, y = 2 * rng.normal(size=(size, classes)), rng.integers(0, classes, size)
    found = batch_weights(torch.from_numpy(logits), torch.from_numpy(y), lam)
    np.testing.assert_allclose(found, _reference(logits, y, lam), atol=1e-9)
    assert (found[np.setdiff1d(np.arange(classes), y)] == 1).all()  # absent classes


def test_of_two_classes_the_one_with_the_larger_own_probability_is_strong():
    clean, y = _logits([0.6, 0.4], [0.2, 0.8]), torch.tensor([0, 1])
    assert strong_classes(batch_weights(clean, y, 1.0), y).tolist() == [False, True]


@settings(deadline=None)
@given(size=st.integers(1, 50), seed=st.integers(0, 100))
def test_in_a_batch_of_one_class_nobody_is_strong(size, seed):
    logits = torch.randn(size, 5, generator=torch.Generator().manual_seed(seed))
    y = torch.full((size,), 3)
    assert not strong_classes(batch_weights(logits, y, 1.0), y)[y].any()


def test_the_mean_that_makes_a_class_strong_is_over_samples():
    weights = torch.tensor([0.8, 1.0, 1.3])
    assert strong_classes(weights, torch.tensor([0, 1, 2])).tolist() == [True, True, False]
    assert strong_classes(weights, torch.tensor([0, 0, 0, 1, 2])).tolist() == [True, False, False]


def test_the_first_epoch_attacks_strong_classes_towards_targets_and_others_away_from_the_clean_prediction():
    rehearsal = Rehearsal(resolve_method("trix_attacks"))
    rehearsal.begin()
    batch = rehearsal.method.augment(rehearsal.batches[0])
    expected = strong_classes(batch_weights(rehearsal.model.eval()(batch.x), batch.y, 1.0), batch.y)
    assert torch.equal(rehearsal.method.strong > 0, expected)
    assert 0 < int(expected.sum()) < 4
    loss = rehearsal.method.attack_loss(rehearsal.model, batch, {})
    # A row per possible target: of a strong class's sample the target's own logit alone lowers the loss.
    per_target = torch.stack([loss(10 * torch.eye(4)[k].expand(len(batch.y), 4)) for k in range(4)], dim=1)
    target, strong = per_target.argmax(dim=1), expected[batch.y]
    assert (target[strong] != batch.y[strong]).all()
    assert len(set(target[strong].tolist())) > 1
    logits = torch.randn(len(batch.y), 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        divergence = kl_divergence(rehearsal.model(batch.x).softmax(dim=1), logits)
    torch.testing.assert_close(loss(logits), torch.where(strong, -cross_entropy(logits, target), divergence))


def test_weights_scale_clean_loss_ball_and_step_but_not_the_divergence():
    rehearsal = Rehearsal(resolve_method("trix"))
    scale = torch.tensor([0.5, 1.0, 1.25, 1.25])
    rehearsal.method.policies[0].class_weight = scale
    for vector in ("weight_clean", "margin", "step"):
        np.testing.assert_allclose(rehearsal.method.vector(vector), scale)
    assert rehearsal.method.vector("weight_adv").tolist() == [1.0] * 4


def test_the_weights_begin_at_seventy_of_a_hundred_and_fifty():
    policy = Rehearsal(resolve_method("trix")).method.policies[0]
    policy.context.epochs = 150
    policy.setup(policy.context)
    assert policy.warm_up_epochs == 70


def test_training_mixes_attacks_and_turns_to_weights(train_tiny):
    trix, attacks, trades = train_tiny("trix"), train_tiny("trix_attacks"), train_tiny("trades")
    assert not torch.equal(attacks.weights, trades.weights)
    assert not torch.equal(trix.weights, attacks.weights)
    assert len(set(trix.state["class_weight"][0])) > 1


def test_strong_classes_do_not_depend_on_autocast():
    wrong = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(0, 10, (256,), generator=generator)
        logits = (0.05 * torch.randn(256, 10, generator=generator)).bfloat16()
        exact = strong_classes(batch_weights(logits.double(), y, 1.0), y)
        with torch.autocast("cpu", torch.bfloat16):
            wrong += int((strong_classes(batch_weights(logits.float(), y, 1.0), y) != exact)[y].sum())
    assert wrong == 0
