from __future__ import annotations

import numpy as np
import torch
from scipy.special import log_softmax
from torch import nn

from fairbench.data.batch import Batch
from fairbench.method.record import AttackOutput, StepOutput
from fairbench.methods.fairat import cut_out, hard_threshold
from miniature import set_up, trained

BATCH = Batch(0.2 + 0.1 * torch.rand(6, 1, 8, 8), torch.arange(6) % 3, torch.tensor([5, 4, 3, 2, 1, 0]))


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def test_threshold_by_hand():
    # seen are 0, 1, 2, 3, 4, of which the quantile 0.75 is 3: the hardest quarter lies above it
    hardness = torch.tensor([3.0, -1.0, 1.0, 4.0, 0.0, 2.0, -1.0])
    assert hard_threshold(hardness, 0.25).item() == 3.0


def test_cut_out_by_hand():
    cut = cut_out(torch.ones(2, 1, 4, 4), torch.tensor([[0.5, 0.5], [0.0, 0.99]]), 0.5)
    assert cut[0, 0].tolist() == [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    assert cut[1, 0].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert torch.equal(cut_out(torch.ones(2, 3, 4, 6), torch.rand(2, 2), 0.0), torch.ones(2, 3, 4, 6))


def test_only_hard_samples_are_augmented_and_in_the_same_way_in_any_batch():
    method = set_up("fairat", network(), epoch=3)
    method.hardness, method.threshold = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor(2.0)
    changed = method.augment(BATCH)
    assert (changed.x != BATCH.x).flatten(1).any(dim=1).tolist() == [True, True, True, False, False, False]
    assert changed.x.min() >= 0
    assert changed.x.max() <= 1
    alone = method.augment(Batch(BATCH.x[1:2], BATCH.y[1:2], BATCH.index[1:2]))
    assert torch.equal(alone.x, changed.x[1:2])


def test_hardness_follows_the_adversarial_cross_entropy_of_each_sample():
    method = set_up("fairat", network())
    first, second = torch.randn(2, 6, 3)
    y = BATCH.y.numpy()
    ce = [-log_softmax(logits.double().numpy(), axis=1)[np.arange(6), y] for logits in (first, second)]
    for logits in (first, second):
        values = method.statistics(BATCH, AttackOutput(BATCH.x), StepOutput(torch.tensor(0.0), logits_adv=logits))
        assert not values["hard"].any()
    expected = (0.5 * ce[0] + 0.5 * ce[1])[::-1]
    np.testing.assert_allclose(method.hardness.numpy(), expected, rtol=1e-5)


def test_hard_samples_are_augmented_once_it_begins_and_until_then_it_is_sat(tmp_path):
    weights, history = trained(tmp_path, "fairat")
    sat, plain = trained(tmp_path, "sat")
    assert not torch.equal(weights, sat)
    assert history[0]["loss"] == plain[0]["loss"]
    shares = [[float(row[f"hard_in_class[{c}]"]) for c in range(3)] for row in history]
    assert shares[0] == [0.0, 0.0, 0.0]
    assert history[0]["threshold"] == ""
    assert float(history[1]["threshold"]) > 0
    assert 0 < sum(shares[1]) / 3 < 0.5
    assert torch.equal(trained(tmp_path, "fairat", begin=1.0)[0], sat)
