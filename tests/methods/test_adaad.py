from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

import miniature
from fairbench.data.batch import Batch
from fairbench.method.record import AttackOutput
from miniature import trained


class Linear(nn.Module):
    """Logits are a fixed linear function of the pixels."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


TEACHER, NATURAL = Linear(torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0], [-4.0, 0.0, 0.0]])), None
set_up = partial(miniature.set_up, teacher=TEACHER, natural_teacher=NATURAL)
PIXELS = 0.3 + 0.4 * torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0))
BATCH = Batch(PIXELS, torch.arange(6) % 3, torch.arange(6))


def kl(target: np.ndarray, student: np.ndarray) -> np.ndarray:
    """KL(softmax(target) || softmax(student)) in float64, from logits [B,C]; returns [B]."""
    return (softmax(target, axis=1) * (log_softmax(target, axis=1) - log_softmax(student, axis=1))).sum(axis=1)


def says(model: nn.Module, x: Tensor) -> np.ndarray:
    return model(x).detach().double().numpy()


def test_the_attack_follows_the_gradient_through_the_teacher():
    """The student is constant, so that only the teacher can move: away from the uniform prediction."""
    student = Linear(torch.zeros(4, 3))
    method = set_up("adaad", student)
    x_adv = method.attack(student, BATCH).x_adv
    silent = np.zeros((6, 3))
    assert (kl(says(TEACHER, x_adv), silent) > kl(says(TEACHER, BATCH.x), silent) + 0.01).all()
    assert (x_adv - BATCH.x).abs().amax() == pytest.approx(0.1, abs=1e-6)


def test_the_attack_increases_the_disagreement_more_than_one_that_asks_the_teacher_only_once():
    torch.manual_seed(0)
    student = Linear(torch.randn(4, 3))
    disagreement = {}
    for name in ("adaad", "rslad"):
        x_adv = set_up(name, student).attack(student, BATCH).x_adv
        disagreement[name] = kl(says(TEACHER, x_adv), says(student, x_adv)).mean()
    assert disagreement["adaad"] > disagreement["rslad"] > kl(says(TEACHER, BATCH.x), says(student, BATCH.x)).mean()


def test_the_attack_gives_the_teacher_back_as_it_was():
    method = set_up("adaad", Linear(torch.zeros(4, 3)))
    TEACHER.eval()
    method.attack(method.context.model.train(), BATCH)
    assert not TEACHER.training
    assert method.context.model.training
    assert TEACHER.weight.grad is None


@pytest.mark.parametrize(("share", "clean_weight"), [(1.0, 0.0), (0.75, 0.25)])
def test_loss_agrees_with_float64(share, clean_weight):
    torch.manual_seed(0)
    student, x_adv = Linear(torch.randn(4, 3)), (BATCH.x + 0.1).clamp(0, 1)
    output = set_up("adaad", student, adv_share=share).loss(student, BATCH, AttackOutput(x_adv))
    adv = kl(says(TEACHER, x_adv), says(student, x_adv)).mean()
    clean = kl(says(TEACHER, BATCH.x), says(student, BATCH.x)).mean()
    assert output.loss.item() == pytest.approx(0.1 * (share * adv + clean_weight * clean), rel=1e-5)


@pytest.mark.parametrize(("epoch", "begun"), [(2, 0.0), (3, 1.0)])
def test_adaiad_agrees_with_float64_before_and_after_the_beginning(epoch, begun):
    torch.manual_seed(0)
    student, x_adv = Linear(torch.randn(4, 3)), (BATCH.x + 0.1).clamp(0, 1)
    output = set_up("adaiad", student, epoch=epoch).loss(student, BATCH, AttackOutput(x_adv))
    trust = softmax(says(TEACHER, x_adv), axis=1)[np.arange(6), BATCH.y.numpy()] ** 0.1
    terms = 900 * kl(says(TEACHER, x_adv) / 30, says(student, x_adv) / 30)
    terms = terms + begun * (1 - trust) * kl(says(student, BATCH.x), says(student, x_adv))
    assert output.loss.item() == pytest.approx(terms.mean(), rel=1e-3)


def test_each_mechanism_acts_on_training(tmp_path):
    weights, _ = trained(tmp_path, "adaad")
    assert not torch.equal(weights, trained(tmp_path, "rslad", clean_share=0.0)[0])
    assert not torch.equal(weights, trained(tmp_path, "adaad", adv_share=0.5)[0])
    assert not torch.equal(trained(tmp_path, "adaiad")[0], trained(tmp_path, "adaiad", begin=1.0)[0])
