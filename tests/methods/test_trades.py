from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch import nn

from fairbench.data.batch import Batch
from fairbench.losses import cross_entropy, kl_divergence
from fairbench.method.policy import ClassPolicy
from fairbench.methods.trades import TRADES, trades_loss, trades_terms
from miniature import attach


def ready(*policies: ClassPolicy, **hyper_parameters: float) -> TRADES:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    method = TRADES(**hyper_parameters)
    method.policies = list(policies)
    return attach(method, model)


def batch() -> Batch:
    x = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    return Batch(x, torch.arange(6) % 3, torch.arange(6))


def test_loss_by_hand():
    log3 = math.log(3)
    clean, adv, y = torch.zeros(2, 2), torch.tensor([[log3, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    # CE of an even guess is log 2; KL((1/2, 1/2) || (3/4, 1/4)) = log(4/3) / 2 for one sample of two
    natural, boundary = trades_terms(clean, adv, y)
    torch.testing.assert_close(natural, torch.full((2,), math.log(2)))
    torch.testing.assert_close(boundary, torch.tensor([0.5 * math.log(4 / 3), 0.0]))
    assert trades_loss(clean, adv, y, 6.0).item() == pytest.approx(math.log(2) + 6 * 0.25 * math.log(4 / 3))
    assert trades_loss(clean, adv, y, 0.0).item() == pytest.approx(math.log(2))


def test_loss_agrees_with_float64():
    rng = np.random.default_rng(0)
    clean, adv = rng.normal(0, 3, (2, 16, 10))
    y = rng.integers(0, 10, 16)
    ce = -log_softmax(clean, axis=1)[np.arange(16), y].mean()
    kl = rel_entr(softmax(clean, axis=1), softmax(adv, axis=1)).sum(axis=1).mean()
    ours = trades_loss(torch.from_numpy(clean), torch.from_numpy(adv), torch.from_numpy(y), 6.0)
    assert ours.shape == ()
    assert ours.item() == pytest.approx(ce + 6 * kl, rel=1e-5)


def test_gradient_flows_through_both_predictions():
    """d KL(p || q) is q - p for the adversarial logits and p (log p/q - KL) for the clean ones."""
    clean = torch.tensor([[1.0, -0.5, 0.2]], dtype=torch.float64, requires_grad=True)
    adv = torch.tensor([[0.1, 0.7, -1.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0])
    (trades_loss(clean, adv, y, 6.0) - trades_loss(clean, adv, y, 0.0)).backward()
    p, q = (softmax(z.detach().numpy(), axis=1) for z in (clean, adv))
    np.testing.assert_allclose(adv.grad.numpy(), 6 * (q - p), atol=1e-5)
    np.testing.assert_allclose(clean.grad.numpy(), 6 * p * (np.log(p / q) - rel_entr(p, q).sum()), atol=1e-5)


def test_the_method_minimises_trades_loss():
    method, drawn = ready(), batch()
    model = method.context.model
    attacked = method.attack(model, drawn)
    output = method.loss(model, drawn, attacked)
    torch.testing.assert_close(output.loss, trades_loss(model(drawn.x), model(attacked.x_adv), drawn.y, 6.0))
    torch.testing.assert_close(output.logits_adv, model(attacked.x_adv))
    torch.testing.assert_close(output.logits_clean, model(drawn.x))
    zero = ready(beta=0.0).loss(model, drawn, attacked).loss
    torch.testing.assert_close(zero, cross_entropy(model(drawn.x), drawn.y).mean())


def test_the_attack_moves_away_from_the_clean_prediction():
    method, drawn = ready(), batch()
    model = method.context.model
    x_adv = method.attack(model, drawn).x_adv
    clean = torch.softmax(model(drawn.x), dim=1).detach()
    start = kl_divergence(clean, model(drawn.x + 0.001))
    assert (kl_divergence(clean, model(x_adv)) > start).all()
    assert (x_adv - drawn.x).abs().max() == pytest.approx(0.1, abs=1e-6)


def test_beta_and_weights_per_class():
    class Steering(ClassPolicy):
        supplies = ("weight", "weight_adv", "weight_clean", "beta")

        def vectors(self):
            return {
                "weight": torch.tensor([1.0, 2.0, 1.0]),
                "weight_adv": torch.tensor([1.0, 1.0, 0.0]),
                "weight_clean": torch.tensor([0.0, 1.0, 1.0]),
                "beta": torch.tensor([0.5, 1.0, 1.0]),
            }

    method, drawn = ready(Steering(), beta=4.0), batch()
    model = method.context.model
    attacked = method.attack(model, drawn)
    natural, boundary = trades_terms(model(drawn.x), model(attacked.x_adv), drawn.y)
    scaled = natural * torch.tensor([0.0, 2.0, 1.0] * 2), boundary * torch.tensor([2.0, 8.0, 0.0] * 2)
    expected = scaled[0].mean() + scaled[1].mean()
    torch.testing.assert_close(method.loss(model, drawn, attacked).loss, expected)
