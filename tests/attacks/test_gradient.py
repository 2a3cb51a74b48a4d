from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fairbench.attacks import frozen
from fairbench.attacks.gradient import logits_and_gradient
from fairbench.errors import InvalidInput


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3))


def test_frozen_restores_every_flag_even_after_an_error() -> None:
    net = _net().train()
    net[1].eval()
    net[0].bias.requires_grad_(False)
    modes, grads = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    with frozen(net):
        assert not any(m.training for m in net.modules())
        assert not any(p.requires_grad for p in net.parameters())
    with pytest.raises(RuntimeError, match="inside"), frozen(net):
        raise RuntimeError("inside")
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == grads


def test_train_mode_moves_batch_statistics_and_eval_mode_does_not() -> None:
    net = _net().eval()
    before = net[1].running_mean.clone()
    with frozen(net):
        net(torch.rand(8, 1, 4, 4))
    assert torch.equal(net[1].running_mean, before)
    with frozen(net, mode="train"):
        net(torch.rand(8, 1, 4, 4))
    assert not torch.equal(net[1].running_mean, before)
    assert not net.training


def test_gradient_of_a_linear_model_is_its_row_and_parameters_get_none() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x = torch.rand(3, 1, 2, 2)
    with torch.no_grad():
        logits, grad = logits_and_gradient(net, x, lambda logits, y: logits[:, 1] * y, torch.tensor([1.0, 2.0, 0.0]))
    assert torch.allclose(logits, net(x))
    assert torch.allclose(grad.flatten(1), torch.tensor([[1.0], [2.0], [0.0]]) * net[1].weight[1])
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not x.requires_grad


def test_a_model_without_a_gradient_is_refused() -> None:
    class Blind(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach().flatten(1)

    with pytest.raises(InvalidInput, match="no gradient with respect to its input"):
        logits_and_gradient(Blind(), torch.rand(1, 1, 2, 2), lambda logits: logits)
