from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fairbench.method.record import ClassRecord
from fairbench.methods.fair_ard import FairARDWeights, survival_weights
from miniature import context, trained

NAMES = [f"fair_{base}{ending}" for base in ("ard", "iad", "rslad", "mtard") for ending in ("", "_released")]


def test_weights_by_hand():
    # 1/4, 1/9, 1/4 of which the sum is 11/18: times 3 they are 27/22, 6/11, 27/22, and 6/11 is below 5/6
    weights = survival_weights(torch.tensor([2.0, 3.0, 2.0]), 2.0)
    torch.testing.assert_close(weights, torch.tensor([27 / 22, 5 / 6, 27 / 22]), rtol=1e-4, atol=0)


def test_a_class_that_survives_nothing_reaches_the_ceiling_and_the_others_the_floor():
    weights = survival_weights(torch.tensor([0.0, 5.0, 10.0]), 2.0)
    torch.testing.assert_close(weights, torch.tensor([5 / 2, 5 / 6, 5 / 6]))
    torch.testing.assert_close(survival_weights(torch.tensor([0.0, 5.0]), 2.0, 0.1, 1.5), torch.tensor([1.5, 0.1]))


@given(st.integers(1, 200), st.floats(0, 10, width=32), st.floats(0, 4, width=32))
def test_equal_survival_gives_ones(classes, kappa, beta):
    torch.testing.assert_close(survival_weights(torch.full((classes,), kappa), beta), torch.ones(classes))


@given(st.lists(st.floats(0, 10), min_size=2, max_size=100), st.floats(0, 4))
def test_weights_agree_with_numpy_and_fall_with_survival(kappa, beta):
    ours = survival_weights(torch.tensor(kappa, dtype=torch.float64), beta).numpy()
    raw = (1 / (np.array(kappa) + 1e-5)) ** beta
    np.testing.assert_allclose(ours, np.clip(len(raw) * raw / raw.sum(), 5 / 6, 5 / 2), rtol=1e-9)
    assert (np.diff(ours[np.argsort(kappa)]) <= 1e-12).all()


def test_survival_is_a_mean_over_the_samples_that_a_class_really_has():
    policy, model = FairARDWeights(), nn.Linear(1, 3)
    policy.setup(context(model, class_counts=torch.tensor([1, 2, 3])))
    assert policy.vectors()["weight"].tolist() == [1.0, 1.0, 1.0]
    record = ClassRecord(3, torch.device("cpu"))
    record.add(torch.tensor([0, 1, 2, 2]), {"survived": torch.tensor([4, 1, 6, 3])})
    record.add(torch.tensor([1, 2]), {"survived": torch.tensor([3, 0])})
    policy.end_epoch(record)
    assert policy.kappa.tolist() == [4.0, 2.0, 3.0]
    torch.testing.assert_close(policy.vectors()["weight"], survival_weights(torch.tensor([4.0, 2.0, 3.0]), 2.0))


@pytest.mark.parametrize("name", NAMES)
def test_weights_move_and_change_the_training_of_every_base(tmp_path, name):
    weights, history = trained(tmp_path, name)
    moved = [float(history[-1][f"weight[{c}]"]) for c in range(3)]
    assert max(abs(weight - 1) for weight in moved) > 1e-3
    kappa = torch.tensor([float(history[-1][f"kappa[{c}]"]) for c in range(3)])
    torch.testing.assert_close(torch.tensor(moved), survival_weights(kappa, 2.0))
    flat, plain = trained(tmp_path, name, survival_beta=0.0)
    assert history[0]["loss"] == plain[0]["loss"]
    assert not torch.equal(weights, flat)


@pytest.mark.parametrize("base", ["ard", "rslad", "mtard"])
def test_without_an_exponent_it_is_its_base(tmp_path, base):
    assert torch.equal(trained(tmp_path, f"fair_{base}", survival_beta=0.0)[0], trained(tmp_path, base)[0])


def test_the_released_script_forgets_the_natural_teacher(tmp_path):
    assert not torch.equal(trained(tmp_path, "fair_mtard")[0], trained(tmp_path, "fair_mtard_released")[0])
