from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from torch import nn

from fairbench.data.batch import Batch
from fairbench.losses import soften
from fairbench.methods.label_smoothing import smooth_logits
from miniature import set_up, trained

BATCH = Batch(torch.linspace(0, 1, 24).view(6, 1, 2, 2), torch.arange(6) % 3, torch.arange(6))


def test_labels_by_hand():
    smooth = torch.softmax(smooth_logits(torch.tensor([2, 0]), 3, 0.2), dim=1)
    torch.testing.assert_close(smooth, torch.tensor([[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]))


def test_a_temperature_smooths_or_sharpens_by_hand():
    # odds 8 : 1 : 1 become 64 : 1 : 1 at temperature 1/2 and 2 : 1 : 1 at 3
    y = torch.tensor([0, 1])
    smooth = soften(smooth_logits(y, 3, 0.2), y, torch.tensor([0.5, 3.0, 1.0]))
    torch.testing.assert_close(smooth, torch.tensor([[64, 1, 1], [1, 2, 1]]) / torch.tensor([[66.0], [4.0]]))


@given(st.integers(2, 100), st.floats(0.01, 0.99), st.floats(0.5, 5))
def test_the_label_always_leads(classes, smoothing, tau):
    y = torch.arange(classes)
    smooth = soften(smooth_logits(y, classes, smoothing), y, torch.full((classes,), tau))
    assert (smooth.diagonal() >= smooth.amax(dim=1) - 1e-7).all()
    torch.testing.assert_close(smooth.sum(dim=1), torch.ones(classes))


def test_loss_agrees_with_float64():
    torch.manual_seed(0)
    method = set_up("label_smoothing", nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    model = method.context.model
    attacked = method.attack(model, BATCH)
    target = 0.05 + 0.85 * np.eye(3)[BATCH.y.numpy()]
    kl = {}
    for name, x in (("adv", attacked.x_adv), ("clean", BATCH.x)):
        log_p = log_softmax(model(x).detach().double().numpy(), axis=1)
        kl[name] = (target * (np.log(target) - log_p)).sum(axis=1).mean()
    loss = method.loss(model, BATCH, attacked).loss.item()
    assert loss == pytest.approx(5 / 6 * kl["adv"] + 1 / 6 * kl["clean"], rel=1e-5)


def test_smoothing_and_its_adaptation_by_class_act_on_training(tmp_path):
    weights, history = trained(tmp_path, "class_label_smoothing")
    same, _ = trained(tmp_path, "label_smoothing")
    assert max(abs(float(history[0][f"temperature_adv[{c}]"]) - 1) for c in range(3)) == pytest.approx(0.5)
    assert not torch.equal(weights, same)
    assert torch.equal(trained(tmp_path, "class_label_smoothing", temperature_rate=0.0)[0], same)
    assert not torch.equal(trained(tmp_path, "label_smoothing", smoothing=0.3)[0], same)
