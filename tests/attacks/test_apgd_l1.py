from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fairbench.attacks.apgd_l1 import ascend_sparsely, reconsider, sparse_direction
from fairbench.attacks.losses import ce
from fairbench.attacks.projections import columns, distance, nearest_in_ball, unit
from fairbench.data import load_dataset
from fairbench.evaluation.pixels import as_input, as_tensor
from fairbench.models import load_checkpoint

ROOT = Path(__file__).parents[2]


def test_a_direction_takes_the_steepest_pixels_with_equal_shares() -> None:
    grad = torch.tensor([[[0.5, -3.0], [2.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]])
    found = sparse_direction(grad, torch.tensor([2.9, 4.0]))
    assert found.tolist() == [[[0.0, -0.5], [0.5, 0.0]], [[0.5, 0.5], [0.0, 0.0]]]


def test_the_step_shrinks_where_the_number_of_pixels_has_settled() -> None:
    changed, noted = torch.tensor([60.0, 95.0, 95.0, 0.0]), torch.tensor([100.0, 100.0, 100.0, 0.0])
    pixels, step, again = reconsider(changed, noted, torch.tensor([0.4, 0.6, 0.11, 1.0]), eps=1.0)
    assert pixels.tolist() == pytest.approx([40.0, 95 / 1.5, 95 / 1.5, 1.0])
    assert step.tolist() == pytest.approx([1.0, 0.4, 0.1, 1.0])
    assert again.tolist() == [True, False, False, True]


def _robust() -> tuple[nn.Module, Tensor, Tensor]:
    """The committed SAT network for digits, and test images."""
    net, _ = load_checkpoint(min(ROOT.glob("results/digits/sat/*/best.safetensors")))
    test = load_dataset("digits").test
    x = as_input(as_tensor(test.images[:150]), torch.device("cpu"))
    return net.eval().requires_grad_(False), x, torch.from_numpy(test.labels[:150]).long()


def test_sparse_steps_break_more_than_steps_along_the_gradient() -> None:
    net, x, y = _robust()
    eps, steps = 3.0, 25
    found, broken = ascend_sparsely(net, x, y, ce, eps=eps, steps=steps, start=x)
    assert torch.equal(net(found).argmax(1) != y, broken)
    assert distance(found - x, "L1").max() <= eps * (1 + 1e-5)
    along, plain = torch.zeros(150, dtype=torch.bool), x
    for _ in range(steps):
        plain = plain.detach().requires_grad_()
        (grad,) = torch.autograd.grad(ce(net(plain), y).sum(), plain)
        plain = nearest_in_ball(plain.detach() + columns(torch.full((150,), eps), x) * unit(grad), x, eps, "L1")
        along |= net(plain).argmax(1) != y
    assert 0.05 < float(along.float().mean()) < 0.95
    assert int(broken.sum()) > 1.05 * int(along.sum())


def test_it_changes_few_pixels() -> None:
    net, x, y = _robust()
    found, broken = ascend_sparsely(net, x, y, ce, eps=1.5, steps=50, start=x)
    changed = ((found - x).abs() > 1e-6).flatten(1).sum(1)
    assert float(changed[~broken].float().median()) <= 16
