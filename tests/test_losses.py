from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax

from fairbench.losses import HardLabels, SoftLabels, cross_entropy, kl_divergence, soften

LOG2, LOG3 = math.log(2), math.log(3)


def test_cross_entropy_by_hand():
    logits = torch.tensor([[0.0, 0.0], [LOG3, 0.0], [LOG3, 0.0]])
    expected = torch.tensor([LOG2, math.log(4 / 3), math.log(4)])
    torch.testing.assert_close(cross_entropy(logits, torch.tensor([1, 0, 1])), expected)


def test_kl_by_hand():
    uniform, student = torch.tensor([[0.5, 0.5]]), torch.tensor([[LOG3, 0.0]])
    # p = (3/4, 1/4): 1/2 log(1/2 / 3/4) + 1/2 log(1/2 / 1/4) = 1/2 log(4/3)
    torch.testing.assert_close(kl_divergence(uniform, student), torch.tensor([0.5 * math.log(4 / 3)]))
    # a one-hot target is the cross-entropy, and its zero adds nothing
    torch.testing.assert_close(kl_divergence(torch.tensor([[0.0, 1.0]]), student), torch.tensor([math.log(4)]))


def test_soften_by_hand():
    logits = torch.tensor([[2 * LOG3, 0.0], [2 * LOG3, 0.0], [0.5 * LOG3, 0.0]])
    soft = soften(logits, torch.tensor([0, 1, 2]), torch.tensor([1.0, 2.0, 0.5]))
    torch.testing.assert_close(soft, torch.tensor([[0.9, 0.1], [0.75, 0.25], [0.75, 0.25]]))


logit_arrays = st.integers(2, 7).flatmap(
    lambda classes: st.lists(
        st.lists(st.floats(-30, 30, width=32), min_size=2 * classes, max_size=2 * classes), min_size=1, max_size=5
    )
)


@given(logit_arrays)
def test_all_agree_with_float64(rows):
    both = np.array(rows).reshape(len(rows), 2, -1)
    teacher, student = both[:, 0], both[:, 1]
    classes = teacher.shape[1]
    y = np.arange(len(rows)) % classes
    tau = np.linspace(0.5, 5, classes)
    soft = softmax(teacher / tau[y][:, None], axis=1)
    as_torch = [torch.from_numpy(array).float() for array in (teacher, student, tau)]
    ours = soften(as_torch[0], torch.from_numpy(y), as_torch[2])
    np.testing.assert_allclose(ours.numpy(), soft, rtol=2e-5, atol=1e-6)
    ce = -log_softmax(student, axis=1)[np.arange(len(y)), y]
    np.testing.assert_allclose(cross_entropy(as_torch[1], torch.from_numpy(y)).numpy(), ce, rtol=1e-5, atol=1e-5)
    kl = rel_entr(soft, softmax(student, axis=1)).sum(axis=1)
    np.testing.assert_allclose(kl_divergence(ours, as_torch[1]).numpy(), kl, rtol=1e-4, atol=1e-4)


@given(st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=8), st.floats(-50, 50, width=32))
def test_kl_is_zero_at_the_target_and_ignores_a_shift_of_the_logits(values, shift):
    logits = torch.tensor([values])
    target = torch.softmax(logits, dim=1)
    assert kl_divergence(target, logits).abs().item() < 1e-5
    assert kl_divergence(target, logits + shift).abs().item() < 1e-4


def test_extreme_logits_stay_finite():
    logits, y = torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([1])
    assert cross_entropy(logits, y).item() == pytest.approx(2e4)
    assert torch.isfinite(kl_divergence(soften(logits, y, torch.full((3,), 0.5)), -logits)).all()


def test_kl_gradient_is_the_difference_of_the_probabilities():
    target = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    logits = torch.tensor([[1.0, -1.0, 0.5], [0.0, 0.0, 0.0]], requires_grad=True)
    kl_divergence(target, logits).sum().backward()
    torch.testing.assert_close(logits.grad, torch.softmax(logits.detach(), dim=1) - target)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_results_are_float32_one_a_sample(dtype):
    logits, y = torch.zeros(4, 3, dtype=dtype), torch.tensor([0, 1, 2, 0])
    for values in (cross_entropy(logits, y), kl_divergence(soften(logits, y, torch.ones(3)), logits)):
        assert (values.shape, values.dtype) == ((4,), torch.float32)


@given(logit_arrays, st.floats(0.5, 5.0))
def test_gradients_that_are_written_out_are_those_of_autograd(rows, temperature):
    teacher, logits = torch.tensor(rows).chunk(2, dim=1)
    y, tau = teacher.argmax(1), torch.full((len(logits),), temperature)
    for loss in (HardLabels(y), SoftLabels(teacher, tau), SoftLabels(teacher)):
        z = logits.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(loss(z).sum(), z)
        torch.testing.assert_close(loss.gradient(logits), wanted, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(HardLabels(y)(logits), cross_entropy(logits, y))
    target = soften(teacher, torch.zeros_like(y), torch.tensor([temperature]))
    torch.testing.assert_close(SoftLabels(teacher, tau)(logits), kl_divergence(target, logits))
