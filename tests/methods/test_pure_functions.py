"""The rules of methods as functions of tensors: names, signatures, and values computed by hand."""

from __future__ import annotations

import math
from importlib import import_module
from inspect import Parameter, signature

import pytest
import torch
from torch import Tensor

from fairbench.methods.absld import scaled_rate
from fairbench.methods.bat import bat_loss
from fairbench.methods.cfol import class_distribution as cfol_distribution
from fairbench.methods.cfol import update_scores
from fairbench.methods.codat import class_distribution as codat_distribution
from fairbench.methods.csr import gradient_matrix
from fairbench.methods.fair_tat import target_distribution
from fairbench.methods.frl import remargin_loss
from fairbench.methods.mtard import move_share
from fairbench.methods.sy_far import symmetry_penalty
from fairbench.methods.trix import batch_weights

SIGNATURES = {
    "bat.bat_loss": "last first clean y beta",
    "trix.batch_weights": "clean_logits y lam",
    "fair_tat.target_distribution": "false_positive_share",
    "cfol.update_scores": "scores y error p eta",
    "cfol.class_distribution": "scores gamma base",
    "frl.remargin_loss": "clean adv y weight_clean weight_boundary beta",
    "mtard.move_share": "share adv_loss natural_loss first_adv_loss first_natural_loss rate",
    "csr.gradient_matrix": "errors",
    "sy_far.symmetry_penalty": "adv_logits y eps",
    "codat.class_distribution": "losses radius",
    "absld.scaled_rate": "epochs",
}


@pytest.mark.parametrize(("name", "parameters"), SIGNATURES.items())
def test_the_rule_takes_these_arguments(name, parameters):
    """In this order, by position or by name; further parameters have defaults."""
    module, _, function = name.partition(".")
    found = signature(getattr(import_module(f"fairbench.methods.{module}"), function)).parameters.values()
    asked = parameters.split()
    required = [one for one in found if one.default is Parameter.empty]
    assert [one.name for one in required] == asked
    assert {one.kind for one in required} == {Parameter.POSITIONAL_OR_KEYWORD}


def logits(*rows: tuple[float, ...]) -> Tensor:
    """Logits whose softmax has these rows."""
    return torch.tensor(rows, dtype=torch.float64).log()


def close(value: Tensor, *expected: object) -> None:
    torch.testing.assert_close(value.double(), torch.tensor(expected).double().squeeze(), rtol=0, atol=1e-6)


def test_bat_by_hand():
    last, first, clean = logits((0.5, 0.5)), logits((0.25, 0.75)), logits((0.75, 0.25))
    divergence = 0.75 * math.log(3) - 0.25 * math.log(3)
    uniform = math.log(2) + 0.25 * math.log(0.25) + 0.75 * math.log(0.75)
    close(bat_loss(last, first, clean, torch.tensor([0]), 6.0), math.log(2) + 6 * divergence + 0 + uniform)


def test_remargin_by_hand():
    """Divided by the sum of both weights over the batch, 0.6 + 0.4 and 0.5 + 0.5."""
    clean, adv = logits((0.8, 0.2), (0.5, 0.5)), logits((0.5, 0.5), (0.5, 0.5))
    natural = (-math.log(0.8), math.log(2))
    boundary = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    weights = torch.tensor([0.6, 0.4]), torch.tensor([0.5, 0.5])
    expected = (0.6 * natural[0] + 0.4 * natural[1] + 2 * 0.5 * boundary) / 2
    close(remargin_loss(clean, adv, torch.tensor([0, 1]), *weights, 2.0), expected)


def test_move_share_by_hand():
    """Relative losses 0.5 and 1.5: the natural one is 3/4 of their sum, and the share goes 0.1 of the way there."""
    losses = (torch.tensor(value) for value in (0.5, 1.0, 3.0, 2.0, 2.0))
    share, adv, natural, first_adv, first_natural = losses
    close(move_share(share, adv, natural, first_adv, first_natural, 0.1), 0.5 + 0.1 * 0.25)


def test_trix_weights_by_hand():
    """S = [[0.6, 0.4], [0.2, 0.8]]: class 0 takes 0.4 * 0.8 of class 1; class 1 gives the same."""
    weights = batch_weights(logits((0.6, 0.4), (0.2, 0.8)), torch.tensor([0, 1]), 0.5)
    close(weights, [1 + 0.5 * 0.32, 1 - 0.5 * 0.32])


def test_fair_tat_targets_by_hand():
    """q = softmax(2 f) is proportional to (2, 1, 1); without the true class its rest is scaled to 1."""
    found = target_distribution(torch.tensor([math.log(2) / 2, 0.0, 0.0]))
    close(found, [[0, 1 / 2, 1 / 2], [2 / 3, 0, 1 / 3], [2 / 3, 1 / 3, 0]])


def test_cfol_by_hand():
    p = torch.tensor([0.5, 0.25, 0.25])
    y, error = torch.tensor([0, 1, 1, 2]), torch.tensor([True, True, True, False])
    close(update_scores(torch.tensor([0.0, 1.0, 2.0]), y, error, p, 0.1), [0.2, 1.0 + 2 * 0.4, 2.0])
    base = torch.full((2,), 0.5)
    close(cfol_distribution(torch.tensor([0.0, math.log(3)]), 0.5, base), [0.25 + 0.125, 0.25 + 0.375])


def test_csr_gradient_by_hand():
    """One confusion, of class 1 (column) with class 0 (row), is the whole norm: 2.01 there and 0.01 elsewhere."""
    close(gradient_matrix(torch.tensor([[0.0, 7.0], [0.0, 0.0]])), [[0.01, 2.01], [0.01, 0.01]])


def test_sy_far_penalty_by_hand():
    """a = 0.4 and b = 0.2: 0.6 * 0.2 / (0.6 + 0.1)."""
    close(symmetry_penalty(logits((0.6, 0.4), (0.2, 0.8)), torch.tensor([0, 1]), 0.1), 0.6 * 0.2 / 0.7)


def test_codat_by_hand():
    """Mean 2, population deviation 1 and radius 0.25: (1 +- 0.5) / 2."""
    close(codat_distribution(torch.tensor([1.0, 3.0]), 0.25), [0.25, 0.75])


@pytest.mark.parametrize(("epochs", "rate"), [(15, 0.5), (60, 0.5), (100, 0.3), (300, 0.1), (600, 0.05)])
def test_absld_rate_by_hand(epochs, rate):
    assert scaled_rate(epochs) == pytest.approx(rate, abs=1e-15)
