from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import Tensor, nn

import miniature
from fairbench.data.batch import Batch
from fairbench.errors import InvalidInput
from fairbench.method.record import AttackOutput
from fairbench.methods.iad import introspection, trust_in
from miniature import Says, trained

TEACHER, NATURAL = Says(3.0, -1.0, 0.5), Says(-2.0, 0.0, 1.0)
set_up = partial(miniature.set_up, teacher=TEACHER, natural_teacher=NATURAL)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


BATCH = Batch(torch.linspace(0, 1, 24).view(6, 1, 2, 2), torch.arange(6) % 3, torch.arange(6))
Y = BATCH.y.numpy()


def pieces(model: nn.Module, x_adv: Tensor) -> tuple[np.ndarray, ...]:
    """Trust, KL to the robust teacher, KL to oneself, KL to the natural teacher and cross-entropy, each float64 [6]."""
    clean, adv = (log_softmax(model(x).detach().double().numpy(), axis=1) for x in (BATCH.x, x_adv))
    robust, natural = (log_softmax(logits) for logits in ([3.0, -1.0, 0.5], [-2.0, 0.0, 1.0]))
    guided, own, other = ((np.exp(p) * (p - adv)).sum(axis=1) for p in (robust, clean, natural))
    return np.exp(robust[Y]) ** 0.1, guided, own, other, -adv[np.arange(6), Y]


def test_trust_by_hand():
    trust = trust_in(torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]), torch.tensor([0, 1]), 0.1)
    torch.testing.assert_close(trust, torch.tensor([0.5**0.1, 0.25**0.1]))


def test_introspection_by_hand_with_gradient_through_both():
    clean, adv = torch.tensor([[math.log(3), 0.0]], requires_grad=True), torch.zeros(1, 2, requires_grad=True)
    term = introspection(clean, adv)
    assert term.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    term.sum().backward()
    torch.testing.assert_close(adv.grad, torch.tensor([[-0.25, 0.25]]))
    # d/dz_0 = p_0 (log p_0 / q_0 - KL)
    assert clean.grad[0, 0].item() == pytest.approx(0.75 * (math.log(1.5) - term.item()), rel=1e-5)


@pytest.mark.parametrize(("name", "before", "begun"), [("iad", 2, 3), ("iad2", 1, 2)])
def test_loss_agrees_with_float64_before_and_after_the_beginning(name, before, begun):
    model, x_adv = network(), (BATCH.x + 0.1).clamp(0, 1)
    trust, guided, own, other, ce = pieces(model, x_adv)
    expected = {
        "iad": {before: guided, begun: guided + (1 - trust) * own},
        "iad2": {
            before: 0.25 * ce + 0.5 * guided + 0.25 * other,
            begun: 0.25 * ce + 0.5 * (trust * guided + (1 - trust) * own) + 0.25 * other,
        },
    }[name]
    for epoch, terms in expected.items():
        output = set_up(name, model, epoch=epoch).loss(model, BATCH, AttackOutput(x_adv))
        assert output.loss.item() == pytest.approx(terms.mean(), rel=1e-4)
        if epoch == before:  # IAD-I forwards clean images for BatchNorm alone, IAD-II none
            assert output.logits_clean is None if name == "iad2" else not output.logits_clean.requires_grad
        else:
            assert output.logits_clean.requires_grad


def test_shares_that_leave_less_than_nothing_are_refused():
    with pytest.raises(InvalidInput, match=r"IAD2: shares 0\.8 and 0\.25 exceed 1"):
        set_up("iad2", network(), robust_share=0.8)


@pytest.mark.parametrize("name", ["iad", "iad2"])
def test_the_students_own_prediction_acts_from_the_beginning_on(tmp_path, name):
    weights, history = trained(tmp_path, name)
    without, flat = trained(tmp_path, name, begin=1.0)
    assert history[0]["loss"] == flat[0]["loss"]
    assert history[1]["loss"] != flat[1]["loss"]
    assert not torch.equal(weights, without)


def test_the_natural_teacher_acts(tmp_path):
    weights, _ = trained(tmp_path, "iad2", natural_share=0.0)
    assert not torch.equal(weights, trained(tmp_path, "iad2")[0])
