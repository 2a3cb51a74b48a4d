from __future__ import annotations

import sys

import pytest
import torch
from compilers import needs_compiler
from torch import Tensor, nn

from fairbench.attacks.crafting import craft, crafting_model, remembered_copies
from fairbench.attacks.random import ImageRNG
from fairbench.copies import Rewritten
from fairbench.copies.half import HalfPrecision
from fairbench.models.architectures import build_model


def _settle(model: nn.Module, x: Tensor) -> nn.Module:
    """Give BatchNorm statistics and scales that are not the identity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    model.train()(x)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("small-cnn:width=8,batchnorm=true", (1, 8, 8)),
        ("small-cnn:width=8,batchnorm=true", (3, 12, 12)),
        ("resnet-micro", (3, 16, 16)),
        ("mobilenet-v2", (3, 16, 16)),
    ],
)
def test_logits_and_gradients_are_those_of_the_model(spec: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    mean, std = [0.4] * shape[0], [0.2] * shape[0]
    x = torch.rand(8, *shape)
    model = _settle(build_model(spec, num_classes=5, shape=shape, mean=mean, std=std), x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = crafting_model(model, x)
    assert fast is not model
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    z = x.clone().requires_grad_()
    wanted, got = model(z), fast(z)
    assert torch.allclose(got, wanted, rtol=1e-3, atol=1e-3)
    weights = torch.randn(8, 5)
    (one,), (two,) = (torch.autograd.grad((logits * weights).sum(), z) for logits in (wanted, got))
    assert float((one - two).norm() / one.norm()) < 1e-3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@needs_compiler
def test_small_networks_are_chains_and_wide_ones_are_not() -> None:
    torch.manual_seed(0)
    small = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    wide = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16384, 2)
    )
    for net, shape in ((small, (1, 8, 8)), (wide, (3, 16, 16))):
        net.eval().requires_grad_(False)
        x = torch.rand(2, *shape)
        copy = crafting_model(net, x)
        assert isinstance(copy, Rewritten)
        assert (copy.chain is not None) == (net is small)
        assert torch.allclose(copy(x), net(x), atol=1e-5)


def test_what_cannot_be_traced_is_used_as_it_is() -> None:
    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:
                return x.flatten(1)[:, :2]
            return -x.flatten(1)[:, :2]

    model = Asks()
    assert crafting_model(model, torch.rand(2, 1, 4, 4)) is model


@pytest.mark.parametrize(("spec", "shape"), [("resnet-micro", (3, 16, 16)), ("small-cnn:width=8", (1, 8, 8))])
def test_a_batch_that_breaks_altogether_leaves_nothing_to_attack_again(spec: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    x = torch.rand(4, *shape)
    model = _settle(build_model(spec, num_classes=5, shape=shape), x)
    copy, wrong = crafting_model(model, x), (model(x).argmax(1) + 1) % 5
    assert copy is not model
    found, broken = craft(lambda network, x, y, rng: x.clone(), copy, model, x, wrong, ImageRNG(0, torch.arange(4)))
    assert torch.equal(found, x)
    assert broken.all()


def test_a_copy_that_computes_something_else_is_not_used() -> None:
    class Looks(nn.Module):
        """Records whether its input is a tensor, which it is not during tracing."""

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2] * (1.0 if isinstance(x, Tensor) else 2.0)

    model = Looks()
    assert crafting_model(model, torch.rand(2, 1, 4, 4)) is model


def test_a_normalisation_that_is_read_twice_is_not_folded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            z = self.conv(x)
            return (z + self.norm(z)).mean((2, 3))

    torch.manual_seed(0)
    x = torch.rand(4, 1, 6, 6)
    model = _settle(Twice(), x)
    fast = crafting_model(model, x)
    assert torch.allclose(fast(x), model(x), atol=1e-5)


def test_one_copy_for_all_batches_of_an_evaluation() -> None:
    torch.manual_seed(0)
    model = build_model("small-cnn:width=4", num_classes=3, shape=(1, 8, 8)).eval().requires_grad_(False)
    x = torch.rand(4, 1, 8, 8)
    assert crafting_model(model, x) is not crafting_model(model, x)
    with remembered_copies():
        first = crafting_model(model, x)
        assert crafting_model(model, x[:2]) is first
        assert crafting_model(model, torch.rand(2, 1, 6, 6)) is not first
    assert crafting_model(model, x) is not first


@needs_compiler
def test_a_large_network_is_copied_in_bfloat16_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 3, 32, 32)
    large = _settle(build_model("resnet18", num_classes=10, shape=(3, 32, 32)), x)
    small = _settle(build_model("small-cnn:width=8", num_classes=10, shape=(3, 32, 32)), x)
    copying = sys.modules["fairbench.attacks.copying"]
    monkeypatch.setattr(copying, "multiplies_bf16", lambda device: True)
    half = crafting_model(large, x, bf16=True)
    assert isinstance(half, HalfPrecision)
    assert 0.0 < float((half(x) - large(x)).abs().max() / large(x).abs().max()) < 0.05
    assert not isinstance(crafting_model(large, x), HalfPrecision)
    assert not isinstance(crafting_model(small, x, bf16=True), HalfPrecision)
    monkeypatch.setattr(copying, "_HALF_TOLERANCE", 1e-6)
    assert not isinstance(crafting_model(large, x, bf16=True), HalfPrecision)
    monkeypatch.undo()
    monkeypatch.setattr(copying, "multiplies_bf16", lambda device: False)
    assert not isinstance(crafting_model(large, x, bf16=True), HalfPrecision)


def test_images_that_break_the_copy_alone_are_attacked_on_the_model() -> None:
    pixels = [[0.9, 0.1, 0.2], [0.1, 0.5, 0.2], [0.1, 0.5, 0.2], [0.9, 0.1, 0.2], [0.8, 0.1, 0.2], [0.1, 0.2, 0.6]]
    model, x, seen = nn.Flatten(), torch.tensor(pixels).view(6, 1, 1, 3), list[tuple[nn.Module, list[int]]]()
    y = torch.tensor([0, 1, 1, 0, 0, 2])

    class Wrong(nn.Module):
        """Predicts a wrong class for images whose first pixel was set to 1."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x[:, 0, 0, :1] == 1.0, -x.flatten(1), x.flatten(1))

    def attack(network: nn.Module, x: Tensor, y: Tensor, *, rng: ImageRNG) -> Tensor:
        seen.append((network, rng.index.tolist()))
        found = x.clone()
        if network is copy:
            found[::2, 0, 0, 0] = 1.0
        return found

    copy = Wrong()
    found, broken = craft(attack, copy, model, x, y, ImageRNG(0, torch.arange(10, 16)))
    assert seen == [(copy, [10, 11, 12, 13, 14, 15]), (model, [10, 14])]
    assert torch.equal(found[[0, 4]], x[[0, 4]])
    assert found[2].flatten().tolist() == pytest.approx([1.0, 0.5, 0.2])  # breaks both
    assert broken.tolist() == [False, False, True, False, False, False]
