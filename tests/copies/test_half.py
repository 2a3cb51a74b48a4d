from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from fairbench.attacks.gradient import logits_and_gradient
from fairbench.copies.half import HalfPrecision
from fairbench.models.architectures import build_model


@pytest.fixture(scope="module")
def network() -> fx.GraphModule:
    torch.manual_seed(0)
    model = build_model("resnet-micro", num_classes=5, shape=(3, 16, 16), mean=[0.4] * 3, std=[0.2] * 3)
    return fx.symbolic_trace(model.eval().requires_grad_(False))


def test_logits_and_gradients_are_nearly_those_of_the_network(network: fx.GraphModule) -> None:
    x, y = torch.rand(4, 3, 16, 16), torch.arange(4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    logits, gradient = logits_and_gradient(HalfPrecision(network, network), x, nn.functional.cross_entropy, y)
    wanted, exact = logits_and_gradient(network, x, nn.functional.cross_entropy, y)
    assert logits.dtype == gradient.dtype == torch.float32
    assert 0.0 < float((logits - wanted).norm() / wanted.norm()) < 0.05
    assert float(nn.functional.cosine_similarity(gradient.flatten(1), exact.flatten(1)).min()) > 0.95
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_images_are_not_rounded(network: fx.GraphModule) -> None:
    """bfloat16 numbers near 0.9 are 1/256 apart."""
    grey = torch.full((4, 3, 16, 16), 0.9) + torch.arange(4).view(4, 1, 1, 1) / 1024
    assert len(grey.to(torch.bfloat16).unique()) < 4
    half, firsts = HalfPrecision(network, network), list[Tensor]()
    first = next(module for module in half.network.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda module, given, made: firsts.append(made))
    half(grey)
    assert firsts[0].dtype == torch.float32
    assert len({tuple(row.tolist()) for row in firsts[0].flatten(1)}) == 4
    linear = [module for module in half.network.modules() if isinstance(module, nn.Linear)]
    assert [module.weight.dtype for module in linear] == [torch.bfloat16]
    assert half.exact is network


def test_a_network_without_a_convolution_has_no_such_copy() -> None:
    traced = fx.symbolic_trace(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="without a convolution"):
        HalfPrecision(traced, traced)
