from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import Tensor, nn

from fairbench.data.batch import Batch
from fairbench.method.record import AttackOutput, StepOutput
from fairbench.methods.absld_self import averaging_rate, corrected_logits
from miniature import set_up, trained

BATCH = Batch(torch.linspace(0, 1, 24).view(6, 1, 2, 2), torch.arange(6) % 3, torch.arange(6))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3))


def test_label_and_prediction_are_mixed_by_hand():
    mixed = corrected_logits(torch.tensor([[math.log(3), 0.0]] * 2), torch.tensor([0, 1]), 0.5)
    torch.testing.assert_close(mixed.exp(), torch.tensor([[0.875, 0.125], [0.375, 0.625]]))
    only = corrected_logits(torch.tensor([[200.0, 0.0]]), torch.tensor([1]), 1.0)
    assert torch.isfinite(only).all()
    torch.testing.assert_close(torch.softmax(only, dim=1), torch.tensor([[0.0, 1.0]]))


def test_the_rate_falls_to_its_floor_by_hand():
    rates = [averaging_rate(torch.tensor(step), 0.9).item() for step in (1, 8, 80, 81, 10**6)]
    assert rates == pytest.approx([9 / 11, 0.5, 0.1, 0.1, 0.1])


def test_loss_agrees_with_float64():
    method = set_up("rslad_self", network())
    model, x_adv = method.context.model.eval(), (BATCH.x + 0.1).clamp(0, 1)
    memo: dict[str, Tensor] = {}
    method.attack_loss(model, BATCH, memo)
    output = method.loss(model, BATCH, AttackOutput(x_adv, memo=memo))
    adv, clean = (log_softmax(model(x).detach().double().numpy(), axis=1) for x in (x_adv, BATCH.x))
    target = 0.5 * np.eye(3)[BATCH.y.numpy()] + 0.5 * np.exp(clean)  # the average is still the student
    adv_kl, clean_kl = ((target * (np.log(target) - log_p)).sum(axis=1).mean() for log_p in (adv, clean))
    assert output.loss.item() == pytest.approx(5 / 6 * adv_kl + 1 / 6 * clean_kl, rel=1e-5)


def test_the_average_follows_the_student_and_takes_over_its_batchnorm_statistics():
    method = set_up("rslad_self", network())
    model, (before, *_) = method.context.model, method.average[2].parameters()
    before = before.detach().clone()

    def closure() -> StepOutput:
        output = method.loss(model.train(), BATCH, method.attack(model, BATCH))
        output.loss.backward()
        return output

    method.step(closure)
    expected = before.lerp(model[2].weight.detach(), 9 / 11)
    torch.testing.assert_close(method.average[2].weight, expected)
    assert not torch.equal(before, expected)
    assert torch.equal(method.average[1].running_mean, model[1].running_mean)
    assert not method.average.training
    assert method.average[2].weight.grad is None
    assert method.export_model() is model


def test_the_average_is_part_of_the_state():
    method = set_up("rslad_self", network())
    assert {"steps", "average/2.weight", "average/1.running_mean"} <= set(method.state_dict())


def test_the_average_and_the_temperatures_act_on_training(tmp_path):
    weights, history = trained(tmp_path, "absld_self")
    assert max(abs(float(history[0][f"temperature_adv[{c}]"]) - 1) for c in range(3)) == pytest.approx(0.5)
    assert not torch.equal(weights, trained(tmp_path, "rslad_self")[0])
    assert not torch.equal(weights, trained(tmp_path, "absld_self", average_decay=0.0)[0])
    assert not torch.equal(weights, trained(tmp_path, "absld_self", label_share=1.0)[0])
