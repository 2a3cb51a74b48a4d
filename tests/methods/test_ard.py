from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

import miniature
from fairbench.data.batch import Batch
from fairbench.method.record import AttackOutput
from fairbench.methods.ard import ard_term
from miniature import Says, trained

TEACHER, NATURAL = Says(3.0, -1.0, 0.5), None
set_up = partial(miniature.set_up, teacher=TEACHER, natural_teacher=NATURAL)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3))


BATCH = Batch(torch.linspace(0, 1, 24).view(6, 1, 2, 2), torch.arange(6) % 3, torch.arange(6))


def test_term_by_hand():
    soft, student = torch.tensor([[0.5, 0.5]]), torch.tensor([[30 * math.log(3), 0.0]])
    assert ard_term(student, soft, 30.0).item() == pytest.approx(900 * 0.5 * math.log(4 / 3), rel=1e-4)


def test_loss_agrees_with_float64():
    method = set_up("ard", network())
    model = method.context.model.eval()
    attacked = method.attack(model, BATCH)
    output = method.loss(model, BATCH, attacked)
    student = log_softmax(model(attacked.x_adv).detach().double().numpy() / 30, axis=1)
    teacher = np.array([3.0, -1.0, 0.5]) / 30
    kl = (softmax(teacher) * (log_softmax(teacher) - student)).sum(axis=1)
    assert output.loss.item() == pytest.approx(0.1 * 900 * kl.mean(), rel=1e-3)


def test_what_the_teacher_leaves_goes_to_clean_cross_entropy():
    method = set_up("ard", network(), teacher_share=0.0)
    model = method.context.model.eval()
    output = method.loss(model, BATCH, AttackOutput(BATCH.x))
    log_p = log_softmax(model(BATCH.x).detach().double().numpy(), axis=1)
    assert output.loss.item() == pytest.approx(-log_p[np.arange(6), BATCH.y.numpy()].mean(), rel=1e-5)


def test_the_attack_runs_in_train_mode_and_the_clean_forward_counts_for_batchnorm():
    method = set_up("ard", network())
    model = method.context.model.train()
    attacked = method.attack(model, BATCH)
    assert model[1].num_batches_tracked == 2  # attack steps
    method.loss(model, BATCH, attacked)
    assert model[1].num_batches_tracked == 4


def test_the_temperature_and_the_teacher_act_on_training(tmp_path):
    weights, _ = trained(tmp_path, "ard")
    assert not torch.equal(weights, trained(tmp_path, "ard", temperature=1.0)[0])
    assert not torch.equal(weights, trained(tmp_path, "ard", teacher_share=0.5)[0])
    assert not torch.equal(weights, trained(tmp_path, "sat")[0])
