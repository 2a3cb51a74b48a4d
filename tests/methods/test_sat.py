from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fairbench.data.batch import Batch
from fairbench.losses import cross_entropy
from fairbench.method.policy import ClassPolicy
from fairbench.method.record import AttackOutput
from fairbench.methods.sat import SAT
from miniature import attach


def ready(*policies: ClassPolicy) -> SAT:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    method = SAT()
    method.policies = list(policies)
    return attach(method, model)


def batch() -> Batch:
    x = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
    return Batch(x, torch.arange(6) % 3, torch.arange(6))


def test_the_loss_is_the_cross_entropy_of_the_adversarial_inputs():
    method, drawn = ready(), batch()
    model = method.context.model
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([math.log(2), 0.0, 0.0]))  # probabilities 1/2, 1/4, 1/4 whatever the input
    output = method.loss(model, drawn, AttackOutput(drawn.x))
    assert output.loss.item() == pytest.approx((math.log(2) + 2 * math.log(4)) / 3)
    assert output.logits_clean is None
    assert output.logits_adv.shape == (6, 3)


def test_only_the_adversarial_inputs_are_seen():
    method, drawn = ready(), batch()
    attacked = AttackOutput(torch.rand(6, 1, 2, 2))
    model = method.context.model
    expected = cross_entropy(model(attacked.x_adv), drawn.y).mean()
    torch.testing.assert_close(method.loss(model, drawn, attacked).loss, expected)


def test_on_a_linear_model_pgd_finds_the_worst_corner():
    """For two classes the margin is linear in the input, so that the worst point is x + eps sign(gradient)."""
    method, drawn = ready(), batch()
    model = method.context.model
    with torch.no_grad():
        model[1].weight[2].zero_()
        model[1].bias[2] = -100.0
    y = torch.arange(6) % 2
    difference = (model[1].weight[1] - model[1].weight[0]).detach().sign().view(1, 1, 2, 2)
    worst = drawn.x + 0.1 * difference * (1 - 2 * y).view(-1, 1, 1, 1)
    x_adv = method.attack(model, Batch(drawn.x, y, drawn.index)).x_adv
    torch.testing.assert_close(x_adv, worst, rtol=0, atol=1e-6)


def test_class_weights_scale_the_loss():
    class Weights(ClassPolicy):
        supplies = ("weight", "weight_adv")

        def vectors(self):
            return {"weight": torch.tensor([1.0, 2.0, 0.0]), "weight_adv": torch.tensor([3.0, 1.0, 1.0])}

    method, drawn = ready(Weights()), batch()
    model = method.context.model
    losses = cross_entropy(model(drawn.x), drawn.y)
    expected = (losses * torch.tensor([3.0, 2.0, 0.0] * 2)).mean()
    torch.testing.assert_close(method.loss(model, drawn, AttackOutput(drawn.x)).loss, expected)


def test_it_needs_nothing_and_starts_anywhere_in_the_ball():
    assert SAT().required == frozenset()
    assert SAT.attack_start == "uniform"
    assert SAT.hyper_parameters() == []
