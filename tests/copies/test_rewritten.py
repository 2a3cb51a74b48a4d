from __future__ import annotations

import pytest
import torch
from compilers import needs_compiler
from torch import nn

from fairbench.copies import Rewritten, folded
from fairbench.models.architectures import build_model


def _unsettle(model: nn.Module, x: torch.Tensor) -> None:
    """Change a model's weights, and the statistics and scales of its BatchNorm."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.train()(x)
    model.eval()


@pytest.mark.parametrize(
    ("spec", "shape", "chained"),
    [
        pytest.param("small-cnn:width=8,batchnorm=true", (1, 8, 8), True, marks=needs_compiler),
        pytest.param("small-cnn:width=8", (1, 8, 8), True, marks=needs_compiler),
        ("small-cnn:width=64,batchnorm=true", (3, 16, 16), False),
        pytest.param("resnet-micro", (3, 16, 16), True, marks=needs_compiler),
        ("mobilenet-v2", (3, 16, 16), False),
    ],
)
def test_a_copy_follows_the_weights_and_statistics_of_its_network(
    spec: str, shape: tuple[int, int, int], chained: bool
) -> None:
    torch.manual_seed(0)
    precision, error = (torch.float32, 1e-5) if chained else (torch.float64, 1e-9)
    model, x = build_model(spec, num_classes=5, shape=shape).to(precision), torch.rand(8, *shape, dtype=precision)
    _unsettle(model, x)
    copy, weights = Rewritten(folded(model), x), torch.randn(8, 5, dtype=precision)
    assert (copy.chain is not None) == chained
    for _ in range(2):
        z = x.clone().requires_grad_()
        wanted, got = model(z), copy(z)
        assert torch.allclose(got, wanted, atol=error)
        one, two = (torch.autograd.grad((logits * weights).sum(), z)[0] for logits in (wanted, got))
        assert float((one - two).norm() / one.norm()) < error
        _unsettle(model, x)
        assert not torch.allclose(copy(x), model(x))
        copy.load(model)


def test_a_network_that_cannot_be_run_node_by_node_raises_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    class Optimises(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.autograd.grad(x.sum(), x)[0]

    with pytest.raises(RuntimeError):
        Rewritten(folded(Optimises()), torch.rand(2, 1, 8, 8))
    assert capfd.readouterr().err == ""


@needs_compiler
def test_nothing_of_the_network_changes_and_passes_are_counted() -> None:
    torch.manual_seed(0)
    model, x = build_model("small-cnn:width=4,batchnorm=true", num_classes=3, shape=(1, 8, 8)), torch.rand(6, 1, 8, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copy = Rewritten(folded(model), x)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    copy(x[:4])
    z = x.clone().requires_grad_()
    torch.autograd.grad(copy(z).sum(), z)
    copy.logits_and_gradient(x[:5], lambda logits: logits[:, 0])
    assert (copy.forwards, copy.backwards) == (4 + 6 + 5, 6 + 5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_with_parts_that_stay_as_they_are_is_followed_as_well() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.norm, self.head = nn.Parameter(torch.ones(3)), nn.BatchNorm1d(64), nn.Linear(64, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.norm(x.flatten(1) - torch.tensor([0.5]))
            logits: torch.Tensor = self.scale * self.head(z)
            return logits

    torch.manual_seed(0)
    model, x = Scaled().eval(), torch.rand(6, 1, 8, 8)
    copy = Rewritten(folded(model), x)
    _unsettle(model, x)
    copy.load(model)
    assert torch.allclose(copy(x), model(x), atol=1e-6)
