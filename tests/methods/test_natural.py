from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from fairbench.data.batch import Batch
from fairbench.method.composition import build_method, resolve_method
from miniature import context, trained


def test_nothing_is_attacked_and_the_loss_is_the_clean_cross_entropy():
    method = build_method(resolve_method("natural"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    batch = Batch(torch.rand(6, 1, 2, 2), torch.arange(6) % 3, torch.arange(6))
    method.context = context(model)
    attacked = method.attack(model, batch)
    assert torch.equal(attacked.x_adv, batch.x)
    output = method.loss(model, batch, attacked)
    log_p = log_softmax(model(batch.x).detach().double().numpy(), axis=1)
    assert output.loss.item() == pytest.approx(-log_p[np.arange(6), batch.y.numpy()].mean(), rel=1e-5)
    assert output.logits_adv is None


def test_training_is_not_adversarial_training(tmp_path):
    weights, history = trained(tmp_path, "natural")
    assert not torch.equal(weights, trained(tmp_path, "sat")[0])
    assert float(history[1]["loss"]) < float(history[0]["loss"])
    assert "train_correct_adv" not in history[0]
