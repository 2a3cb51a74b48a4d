from __future__ import annotations

import math

import torch

from fairbench.attacks.losses import ce, cw, kl


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
