from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairbench import evaluate
from fairbench.errors import InvalidInput
from fairbench.evaluation.edge import at_edge, logits
from fairbench.evaluation.victim import held


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(8 * 16, 4),
    )


def _data(n: int = 12) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(n) % 4


def _look(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that somebody could miss afterwards."""
    return {
        "training": [module.training for module in model.modules()],
        "objects": [id(value) for value in [*model.parameters(), *model.buffers()]],
        "places": [value.data_ptr() for value in [*model.parameters(), *model.buffers()]],
        "values": [value.detach().clone().flatten().tolist() for value in [*model.parameters(), *model.buffers()]],
        "strides": [value.stride() for value in [*model.parameters(), *model.buffers()]],
        "gradients": [None if value.grad is None else value.grad.flatten().tolist() for value in model.parameters()],
        "trainable": [value.requires_grad for value in model.parameters()],
        "hooks": [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()],
    }


class Counts(nn.Module):
    """Counts its forwards and averages its inputs in eval mode too, in place and anew."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(48, 4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(48))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * x.detach().flatten(1).mean(0)
        return self.linear(x.flatten(1))


class AlwaysTraining(nn.BatchNorm2d):
    """Normalises by the batch, and goes on averaging, whatever mode it is put in."""

    def forward(self, x: Tensor) -> Tensor:
        self.num_batches_tracked.add_(1)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=True)


def _partly_frozen() -> nn.Module:
    net = _net().train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    return net


def _with_gradients() -> nn.Module:
    net = _net()
    net(_data()[0]).sum().backward()
    return net


def _all_frozen() -> nn.Module:
    return _net().eval().requires_grad_(False)


def _channels_last() -> nn.Module:
    return _net().to(memory_format=torch.channels_last)


def _never_in_eval_mode() -> nn.Module:
    net = _net()
    net[1] = AlwaysTraining(8)
    return net


@pytest.mark.parametrize(
    "build",
    [_net, _partly_frozen, _with_gradients, _all_frozen, _channels_last, _never_in_eval_mode, Counts],
    ids=lambda build: build.__name__.strip("_"),
)
@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_model_is_given_back_exactly_as_it_was(build: Any, device: str | None) -> None:
    model, (images, labels) = build(), _data()
    before = _look(model)
    attacks = ["clean", "fgsm", "pgd-5:rel_step=0.5", "autoattack-fast:steps=2,targets=1,queries=2"]
    report = evaluate(model, (images, labels), attacks=attacks, device=device)
    assert _look(model) == before
    assert len(report.verdicts) == 4


def test_a_model_is_given_back_when_the_evaluation_fails_or_is_interrupted() -> None:
    net = _partly_frozen()
    before = _look(net)

    def fail(error: type[BaseException]) -> None:
        with held(net):
            assert not any(module.training for module in net.modules())
            assert not any(value.requires_grad for value in net.parameters())
            net[1].running_mean.add_(1)
            raise error

    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error):
            fail(error)
    assert _look(net) == before


def test_dropout_and_batchnorm_are_off_whatever_mode_the_model_is_in() -> None:
    images, labels = _data()
    net = _net()
    train = evaluate(net.train(), (images, labels), attacks=["clean", "pgd-20"], flags=False)
    test = evaluate(net.eval(), (images, labels), attacks=["clean", "pgd-20"], flags=False)
    assert all(train.verdicts[name].tolist() == test.verdicts[name].tolist() for name in test.verdicts)


def test_inside_no_grad_and_inference_mode_attacks_still_have_gradients() -> None:
    images, labels = _data()
    expected = evaluate(_net(), (images, labels), attacks=["pgd-20"], flags=False)
    for mode in (torch.no_grad, torch.inference_mode):
        net = _net()
        with mode():
            report = evaluate(net, (images.clone(), labels), attacks=["pgd-20"], flags=False)
        assert report.verdicts["pgd-20"].tolist() == expected.verdicts["pgd-20"].tolist()


class Returns(nn.Module):
    """Returns what a function makes of the logits."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.linear, self.change = nn.Linear(48, 4), change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.linear(x.flatten(1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: (z, z), "the model returns a tuple; wrap it in a module that returns its logits"),
        (lambda z: {"logits": z}, "the model returns a dict"),
        (lambda z: None, "the model returns a NoneType"),
        (lambda z: z.sum(), r"must return logits \[N,C\] with C at least 2, not \[\]"),
        (lambda z: z[:, 0], r"must return logits \[N,C\] with C at least 2, not \[2\]"),
        (lambda z: z[:, :1], r"must return logits \[N,C\] with C at least 2, not \[2, 1\]"),
        (lambda z: z[:1], r"must return logits \[N,C\] with C at least 2, not \[1, 4\]"),
        (lambda z: z / 0, "the model's logits are not finite"),
        (lambda z: z @ z, "the model cannot take float32 images of 3x4x4: ."),
        (lambda z: z.bfloat16() @ z, "the model cannot take float32 images of 3x4x4: ."),
    ],
)
def test_a_model_that_returns_no_logits_is_one_line(change: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        evaluate(Returns(change), _data(), attacks=["clean"])
    assert "\n" not in str(caught.value)


def test_a_forward_that_fails_in_a_later_batch_is_one_line() -> None:
    model = Returns(lambda z: z if len(z) < 4 else z @ z)
    with pytest.raises(InvalidInput, match=r"the model cannot take float32 images of 3x4x4: .") as caught:
        evaluate(model, _data(9), attacks=["clean"], batch_size=5, flags=False)
    assert "\n" not in str(caught.value)


def test_a_program_exported_for_another_number_of_images_is_one_line() -> None:
    x = torch.rand(2, 3, 4, 4)
    program = torch.export.export(Returns(lambda z: z).eval(), (x,)).module()
    with pytest.raises(InvalidInput, match="the model cannot take float32 images of 3x4x4: Guard failed"):
        evaluate(program, _data(9), attacks=["fgsm"], batch_size=5, flags=False)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_logits_of_eight_bits_are_read(kind: torch.dtype) -> None:
    found = evaluate(Returns(lambda z: z.to(kind)), _data(), attacks=["clean"], flags=False)
    plain = evaluate(Returns(lambda z: z.to(kind).float()), _data(), attacks=["clean"], flags=False)
    assert found.verdicts["clean"].shape == plain.verdicts["clean"].shape


def test_logits_are_looked_at_in_every_batch() -> None:
    model = Returns(lambda z: z if len(z) > 1 else z.squeeze(0))
    assert at_edge(model, _data()[0][:2])[1] == 4
    with pytest.raises(InvalidInput, match=r"not \[4\]"):
        logits(model, _data()[0][:1])
    with pytest.raises(InvalidInput, match=r"not \[4\]"):
        evaluate(model, _data(9), attacks=["clean"], batch_size=4)


def test_nan_on_the_way_of_an_attack_is_one_line() -> None:
    model = Returns(lambda z: z)
    model.change = lambda z: torch.where(z.amax(1, keepdim=True) > peak, torch.nan, z)
    images, labels = _data()
    peak = torch.inf
    with torch.no_grad():
        peak = float(model(images).max()) + 1e-6
    with pytest.raises(InvalidInput, match="logits are not finite") as caught:
        evaluate(model, (images, labels), attacks=["clean", "fgsm"], eps=0.3)
    assert "\n" not in str(caught.value)


def test_a_model_without_weights_is_one_line() -> None:
    with torch.device("meta"):
        net = _net()
    with pytest.raises(InvalidInput, match="the model has no weights: it is on the meta device"):
        evaluate(net, _data(), attacks=["clean"], device="cpu")
    half = _net()
    half[5] = nn.Linear(128, 4, device="meta")
    with pytest.raises(InvalidInput, match="the model has no weights"):
        evaluate(half, _data(), attacks=["clean"])


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x", "", "meta"])
def test_a_device_that_is_not_there_is_one_line(device: str) -> None:
    net = _net()
    before = _look(net)
    with pytest.raises(InvalidInput, match=f"device '{device}': ") as caught:
        evaluate(net, _data(), attacks=["clean"], device=device)
    assert "\n" not in str(caught.value)
    assert _look(net) == before
