from __future__ import annotations

import math

import torch

from fairbench.attacks.losses import ce, cw, dlr, kl, targeted_dlr


def test_losses_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 5.0]])
    y = torch.tensor([0, 1])
    assert torch.allclose(cw(logits, y), torch.tensor([0.5 - 2.0, 5.0 - 3.0]))
    expected = [
        math.log(sum(math.exp(z) for z in row)) - row[c] for row, c in zip(logits.tolist(), (0, 1), strict=True)
    ]
    assert torch.allclose(ce(logits, y), torch.tensor(expected))
    target = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]])
    log_p = logits.log_softmax(1)
    by_hand = [
        0.5 * (math.log(0.5) - log_p[0, 0]) + sum(0.25 * (math.log(0.25) - log_p[0, c]) for c in (1, 2)),
        -log_p[1, 2],
    ]
    assert torch.allclose(kl(logits, target), torch.tensor(by_hand))


def test_margin_is_positive_exactly_where_the_prediction_is_wrong() -> None:
    logits, y = torch.randn(200, 7), torch.randint(7, (200,))
    assert torch.equal(cw(logits, y) > 0, logits.argmax(1) != y)


def test_margin_gradient_is_one_up_and_one_down() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5]], requires_grad=True)
    (grad,) = torch.autograd.grad(cw(logits, torch.tensor([0])).sum(), logits)
    assert grad.tolist() == [[-1.0, 0.0, 1.0]]


def test_dlr_by_hand() -> None:
    logits = torch.tensor([[4.0, 1.0, 2.0, 0.0], [4.0, 1.0, 2.0, 0.0]])
    # correct: -(4 - 2) / (4 - 1); wrong: -(1 - 4) / (4 - 1)
    assert torch.allclose(dlr(logits, torch.tensor([0, 1])), torch.tensor([-2 / 3, 1.0]))
    shifted = 7.0 * logits + 3.0
    assert torch.allclose(dlr(shifted, torch.tensor([0, 1])), torch.tensor([-2 / 3, 1.0]))
    # with two classes there is no third logit to divide by
    assert torch.allclose(dlr(logits[:, :2], torch.tensor([0, 1])), torch.tensor([-3.0, 3.0]))


def test_targeted_dlr_by_hand() -> None:
    logits = torch.tensor([[4.0, 1.0, 2.0, 0.0]])
    # (z_target - z_true) / (4 - (1 + 0) / 2)
    assert torch.allclose(targeted_dlr(logits, torch.tensor([[0, 2]])), torch.tensor([-2 / 3.5]))
    assert torch.allclose(targeted_dlr(logits, torch.tensor([[1, 0]])), torch.tensor([3 / 3.5]))
    assert torch.allclose(targeted_dlr(logits[:, :3], torch.tensor([[0, 2]])), torch.tensor([-2.0]))


def test_equal_logits_give_finite_ratios() -> None:
    logits = torch.zeros(1, 5, requires_grad=True)
    (dlr(logits, torch.tensor([1])) + targeted_dlr(logits, torch.tensor([[1, 2]]))).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
