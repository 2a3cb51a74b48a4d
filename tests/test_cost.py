from __future__ import annotations

import pytest
import torch
from torch import nn

from fairbench.attacks import frozen, inner_maximisation
from fairbench.cost import CostMeter, FlopMeter, peak_memory_mb
from fairbench.losses import cross_entropy


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def test_images_not_batches_are_counted_both_ways():
    model, meter = net(), CostMeter()
    with meter.measure(model):
        with torch.no_grad():
            model(torch.zeros(5, 4))
        model(torch.zeros(7, 4)).sum().backward()
        model(torch.zeros(2, 4))
    assert (meter.forwards, meter.backwards) == (14, 7)


def test_outside_the_block_nothing_is_counted():
    model, meter = net(), CostMeter()
    model(torch.zeros(5, 4))
    with meter.measure(model):
        pass
    model(torch.zeros(5, 4)).sum().backward()
    assert (meter.forwards, meter.backwards) == (0, 0)
    assert not model._forward_hooks


def test_an_attack_costs_a_forward_and_a_backward_a_step():
    model, meter = net(), CostMeter()
    x, y = torch.rand(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    with meter.measure(model), frozen(model):
        inner_maximisation(model, x, loss=lambda logits: cross_entropy(logits, y), eps=0.1, step=0.05, steps=4, start=x)
    assert (meter.forwards, meter.backwards) == (24, 24)


def test_counts_add_up_and_survive_a_resume():
    model, meter = net(), CostMeter()
    with meter.measure(model):
        model(torch.zeros(5, 4))
    again = CostMeter(**meter.as_dict())
    with again.measure(model):
        model(torch.zeros(5, 4)).sum().backward()
    assert (again.forwards, again.backwards) == (10, 5)
    assert again.seconds > meter.seconds > 0


def test_a_failure_inside_stops_the_counting():
    model, meter = net(), CostMeter()
    with pytest.raises(ValueError, match="mine"), meter.measure(model):
        raise ValueError("mine")
    assert not model._forward_hooks
    assert meter.seconds > 0


def test_a_model_that_returns_no_tensor_is_not_counted():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    meter, model = CostMeter(), Pair()
    with meter.measure(model):
        model(torch.zeros(5, 4))
    assert meter.forwards == 0


def test_flops_of_a_linear_layer_and_its_gradients():
    model, x = nn.Linear(4, 3, bias=False), torch.rand(5, 4)
    with FlopMeter() as forward:
        model(x)
    assert forward.total == 2 * 5 * 4 * 3
    with FlopMeter() as both:
        model(x).sum().backward()
    assert both.total == 2 * forward.total  # the gradient with respect to the weights; the input asks for none


def test_flops_of_a_convolution():
    with FlopMeter() as meter:
        nn.Conv2d(2, 3, 3, padding=1)(torch.rand(1, 2, 8, 8))
    assert meter.total == 2 * 64 * 2 * 3 * 9


def test_flops_are_counted_under_autograd_grad():
    model, x = nn.Linear(4, 3, bias=False), torch.rand(5, 4, requires_grad=True)
    with FlopMeter() as meter:
        torch.autograd.grad(model(x).sum(), x)
    assert meter.total == 2 * 2 * 5 * 4 * 3


def test_peak_memory_is_that_of_this_process():
    before = peak_memory_mb()
    block = torch.ones(64 * 2**20 // 4)
    assert 50 < before <= peak_memory_mb() < 2**20
    assert block.numel()
