from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch import nn

from fairbench.data.batch import Batch
from fairbench.errors import InvalidInput
from fairbench.losses import kl_divergence
from fairbench.method.policy import ClassPolicy
from fairbench.methods.rslad import RSLAD, rslad_loss
from miniature import attach


class Counting(nn.Module):
    """A teacher that is a fixed function of the image and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, x):
        self.asked += 1
        means = x.mean(dim=(1, 2, 3))
        return torch.stack([4 * means, 1 - means, -means], dim=1)


def ready(*policies: ClassPolicy, teacher: nn.Module | None = None, **hyper_parameters: float) -> RSLAD:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    method = RSLAD(**hyper_parameters)
    method.policies = list(policies)
    return attach(method, model, teacher=teacher)


def batch() -> Batch:
    x = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    return Batch(x, torch.arange(6) % 3, torch.arange(6))


def test_loss_by_hand():
    student, flat = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    half = 0.5 * math.log(4 / 3)  # KL((1/2, 1/2) || (3/4, 1/4))
    assert rslad_loss(student, flat, flat).item() == pytest.approx(0.1 * 5 / 6 * half)
    assert rslad_loss(flat, student, flat).item() == pytest.approx(0.1 * 1 / 6 * half)
    assert rslad_loss(student, student, flat).item() == pytest.approx(0.1 * half)
    assert rslad_loss(student, student, student + 3).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_loss_agrees_with_float64_on_any_number_of_classes(classes):
    adv, clean, teacher = np.random.default_rng(0).normal(0, 3, (3, 16, classes))
    target = softmax(teacher, axis=1)

    def kl(logits):
        return (target * (np.log(target) - log_softmax(logits, axis=1))).sum(axis=1).mean()

    expected = (5 / 6 * kl(adv) + 1 / 6 * kl(clean)) / 10
    assert rslad_loss(*map(torch.from_numpy, (adv, clean, teacher))).item() == pytest.approx(expected, rel=1e-5)


def test_temperatures_and_weights_of_samples_agree_with_float64():
    rng = np.random.default_rng(1)
    adv, clean, teacher = rng.normal(0, 3, (3, 16, 10))
    tau_adv, tau_clean, weight_adv, weight_clean = rng.uniform(0.5, 3, (4, 16))
    kl = [
        rel_entr(softmax(teacher / tau[:, None], axis=1), softmax(student, axis=1)).sum(axis=1)
        for student, tau in ((adv, tau_adv), (clean, tau_clean))
    ]
    expected = 2.0 * (0.75 * (weight_adv * kl[0]).mean() + 0.25 * (weight_clean * kl[1]).mean())
    ours = rslad_loss(
        *map(torch.from_numpy, (adv, clean, teacher)),
        temperature_adv=torch.from_numpy(tau_adv),
        temperature_clean=torch.from_numpy(tau_clean),
        clean_share=0.25,
        kl_scale=2.0,
        weight_adv=torch.from_numpy(weight_adv),
        weight_clean=torch.from_numpy(weight_clean),
    )
    assert ours.item() == pytest.approx(expected, rel=1e-4)


def test_the_method_minimises_rslad_loss_and_asks_the_teacher_once():
    teacher = Counting()
    method, drawn = ready(teacher=teacher), batch()
    model = method.context.model
    attacked = method.attack(model, drawn)
    output = method.loss(model, drawn, attacked)
    assert teacher.asked == 1
    expected = rslad_loss(model(attacked.x_adv), model(drawn.x), teacher(drawn.x))
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert model[1].weight.grad.abs().sum() > 0


def test_scale_and_share_are_hyper_parameters():
    drawn = batch()
    for share, scale in ((0.0, 1.0), (1.0, 2.0), (0.5, 0.1)):
        method = ready(teacher=Counting(), clean_share=share, kl_scale=scale)
        model = method.context.model
        attacked = method.attack(model, drawn)
        target = torch.softmax(Counting()(drawn.x), dim=1)
        adv, clean = (kl_divergence(target, model(x)).mean() for x in (attacked.x_adv, drawn.x))
        expected = scale * ((1 - share) * adv + share * clean)
        torch.testing.assert_close(method.loss(model, drawn, attacked).loss, expected)


def test_the_attack_moves_away_from_the_teachers_soft_label():
    method, drawn = ready(teacher=Counting()), batch()
    model, target = method.context.model, torch.softmax(Counting()(drawn.x), dim=1)
    x_adv = method.attack(model, drawn).x_adv
    assert (kl_divergence(target, model(x_adv)) > kl_divergence(target, model(drawn.x))).all()
    assert (x_adv - drawn.x).abs().max() <= 0.1 + 1e-6


def test_weights_and_temperatures_per_class():
    class Steering(ClassPolicy):
        supplies = ("weight", "weight_adv", "weight_clean", "temperature_adv", "temperature_clean")

        def vectors(self):
            return {
                "weight": torch.tensor([1.0, 2.0, 0.0]),
                "weight_adv": torch.tensor([3.0, 1.0, 1.0]),
                "weight_clean": torch.tensor([1.0, 0.5, 1.0]),
                "temperature_adv": torch.tensor([2.0, 1.0, 1.0]),
                "temperature_clean": torch.tensor([1.0, 4.0, 1.0]),
            }

    method, drawn = ready(Steering(), teacher=Counting()), batch()
    model = method.context.model
    attacked = method.attack(model, drawn)
    z = Counting()(drawn.x)
    soft_adv = torch.softmax(z / torch.tensor([2.0, 1.0, 1.0] * 2)[:, None], dim=1)
    soft_clean = torch.softmax(z / torch.tensor([1.0, 4.0, 1.0] * 2)[:, None], dim=1)
    adv = kl_divergence(soft_adv, model(attacked.x_adv)) * torch.tensor([3.0, 2.0, 0.0] * 2)
    clean = kl_divergence(soft_clean, model(drawn.x)) * torch.tensor([1.0, 1.0, 0.0] * 2)
    expected = 0.1 * (5 / 6 * adv.mean() + 1 / 6 * clean.mean())
    torch.testing.assert_close(method.loss(model, drawn, attacked).loss, expected)


def test_without_a_teacher_there_is_no_rslad():
    method = ready()
    assert method.required == {"teacher"}
    with pytest.raises(InvalidInput, match=r"^method RSLAD needs a teacher"):
        method.attack(method.context.model, batch())
