"""Networks written in unusual ways: verdicts are the plain model's, and no engine makes an attack weaker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from small_net import watched
from torch import Tensor, nn
from torch.nn import functional as F

from fairbench.attacks import Ball, frozen, remembered_copies, resolve
from fairbench.attacks.crafting import crafting_model
from fairbench.evaluation.judge import attack_verdicts

PGD = "pgd-8:rel_step=0.25"
EPS, SIDE, IMAGES = 0.02, 10, 48


class Net(nn.Module):
    """Two convolutions and a linear layer, put together by a function of the module and the images."""

    mean: Tensor
    std: Tensor

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **second: Any) -> None:
        super().__init__()
        self.run = run
        self.first, self.second = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, **({"padding": 1} | second))
        self.norm, self.drop, self.relu = nn.BatchNorm2d(6), nn.Dropout(0.5), nn.ReLU()
        self.last = nn.LazyLinear(3)
        self.register_buffer("mean", torch.full((1, 2, 1, 1), 0.4))
        self.register_buffer("std", torch.full((1, 2, 1, 1), 0.2))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.calls = 0

    def body(self, x: Tensor) -> Tensor:
        """Everything behind the normalisation."""
        return self.tail(self.second(F.relu(self.first(x))))

    def tail(self, x: Tensor) -> Tensor:
        """ReLU and the linear layer."""
        logits: Tensor = self.last(torch.flatten(F.relu(x), 1))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def _in_place(net: Net, x: Tensor) -> Tensor:
    return net.body(x.sub_(0.4).div_(0.2))


def _in_place_inside(net: Net, x: Tensor) -> Tensor:
    h = net.first((x - net.mean) / net.std)
    h += net.second(F.relu(h))
    return net.tail(h.mul_(0.5))


def _shortcut_changed_later(net: Net, x: Tensor) -> Tensor:
    h = net.first(x)
    kept = h
    h = F.relu_(h)
    return net.tail(net.second(h) + kept)


def _counting(net: Net, x: Tensor) -> Tensor:
    net.seen += len(x)
    return net.body((x - net.mean) / net.std)


def _shared(net: Net, x: Tensor) -> Tensor:
    h = net.norm(net.second(F.relu(net.first(x))))
    return net.tail(net.norm(net.second(F.relu(h))))


def _branches(net: Net, x: Tensor) -> Tensor:
    h = net.first(x)
    return net.tail(torch.cat([net.second(F.relu(h)), torch.maximum(h, net.norm(h))], 1))


def _two_shortcuts(net: Net, x: Tensor) -> Tensor:
    h = net.first(x)
    return net.tail(net.second(F.relu(h)) + h + net.norm(h))


def _branching(net: Net, x: Tensor) -> Tensor:
    return net.body(x if x.mean() > 0.5 else (x - 0.4) / 0.2)


def _by_batch(net: Net, x: Tensor) -> Tensor:
    return net.body((x - 0.4) / 0.2) if x.shape[0] > 1 else net.body((x - 0.4) / 0.2).clone()


def _straight_through(net: Net, x: Tensor) -> Tensor:
    return net.body((x + (torch.round(255 * x) / 255 - x).detach() - 0.4) / 0.2)


def _without_gradient(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = x.amax((1, 2, 3), keepdim=True)
    return net.body(x / scale)


def _channels_last(net: Net, x: Tensor) -> Tensor:
    return net.body(((x - net.mean) / net.std).contiguous(memory_format=torch.channels_last))


def _faint(net: Net, x: Tensor) -> Tensor:
    return 1e-4 * net.body((x - net.mean) / net.std)


def _offset(net: Net, x: Tensor) -> Tensor:
    return net.body((x - net.mean) / net.std) - 500.0


def _probabilities(net: Net, x: Tensor) -> Tensor:
    return net.body((x - net.mean) / net.std).log_softmax(1)


def _plain(net: Net, x: Tensor) -> Tensor:
    return net.body(x)


def _constants(net: Net, x: Tensor) -> Tensor:
    return net.body((x - 0.4) / 0.2)


def _buffers(net: Net, x: Tensor) -> Tensor:
    return net.body((x - net.mean) / net.std)


def _made_inside(net: Net, x: Tensor) -> Tensor:
    return net.body((x - torch.tensor([0.4, 0.5]).view(1, 2, 1, 1)) / torch.tensor([0.2, 0.3]).view(1, 2, 1, 1))


def _normalize(x: Tensor, mean: list[float], std: list[float]) -> Tensor:
    return x.sub(torch.tensor(mean).view(-1, 1, 1)).div(torch.tensor(std).view(-1, 1, 1))


def _function(net: Net, x: Tensor) -> Tensor:
    return net.body(_normalize(x, [0.4, 0.4], [0.2, 0.2]))


def _per_image(net: Net, x: Tensor) -> Tensor:
    mean, std = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
    return net.body((x - mean) / (std + 1e-5))


def _dropping(net: Net, x: Tensor) -> Tensor:
    return net.tail(net.drop(F.dropout(net.second(F.relu(net.first(x))), 0.5, training=net.training)))


def _hooked(net: Net) -> None:
    """Hooks on layers that torch.fx does not look into: one clamps an output, one shifts an input."""
    net.first.register_forward_hook(lambda module, given, made: made.clamp(max=0.6))
    net.second.register_forward_pre_hook(lambda module, given: (given[0] * 2,))


def _hooked_outside(net: Net) -> None:
    net.register_forward_pre_hook(lambda module, given: ((given[0] - 0.4) / 0.2,))


def _decomposed(net: Net) -> None:
    nn.utils.parametrizations.weight_norm(net.first)


def _half(net: Net) -> None:
    net.bfloat16()


def _laid_out(net: Net) -> None:
    net.to(memory_format=torch.channels_last)


ODD: dict[str, tuple[Callable[[Net, Tensor], Tensor], dict[str, Any], Callable[[Net], None] | None]] = {
    "changes its input": (_in_place, {}, None),
    "changes values in place": (_in_place_inside, {}, None),
    "changes a shortcut in place": (_shortcut_changed_later, {}, None),
    "dropout": (_dropping, {}, None),
    "counts in a buffer": (_counting, {}, None),
    "shared layers": (_shared, {}, None),
    "concatenated branches": (_branches, {}, None),
    "three branches added": (_two_shortcuts, {}, None),
    "control flow by the data": (_branching, {}, None),
    "control flow by the batch size": (_by_batch, {}, None),
    "straight-through rounding": (_straight_through, {}, None),
    "a part without gradient": (_without_gradient, {}, None),
    "channels last inside": (_channels_last, {}, None),
    "weights in channels-last order": (_buffers, {}, _laid_out),
    "faint logits": (_faint, {}, None),
    "logits with an offset": (_offset, {}, None),
    "log-probabilities": (_probabilities, {}, None),
    "no normalisation": (_plain, {}, None),
    "normalisation by constants": (_constants, {}, None),
    "normalisation by buffers": (_buffers, {}, None),
    "normalisation by tensors made inside": (_made_inside, {}, None),
    "normalisation by a function": (_function, {}, None),
    "normalisation of each image": (_per_image, {}, None),
    "grouped convolution": (_buffers, {"groups": 3}, None),
    "depthwise convolution": (_buffers, {"groups": 6}, None),
    "dilated convolution": (_buffers, {"dilation": 2, "padding": 2}, None),
    "stride larger than the kernel": (_buffers, {"stride": 4, "padding": 0}, None),
    "padding larger than the kernel": (_buffers, {"padding": 4}, None),
    "padding by name": (_buffers, {"padding": "same"}, None),
    "circular padding": (_buffers, {"padding_mode": "circular"}, None),
    "hooks on layers": (_constants, {}, _hooked),
    "a hook on the network": (_plain, {}, _hooked_outside),
    "weight normalisation": (_constants, {}, _decomposed),
    "bfloat16 weights": (_constants, {}, _half),
}


def _made(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """An odd network, images and the labels that it predicts for them, the first third of which are then changed."""
    torch.manual_seed(0)
    run, second, change = ODD[name]
    net, x = Net(run, **second), torch.rand(IMAGES, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    net.train()(x.clone())
    net.eval()
    if change is not None:
        change(net)
    with torch.no_grad():
        dtype = next(net.parameters()).dtype
        y = torch.cat([net(part.clone().to(dtype)).argmax(1) for part in x.split(8)])
    y[: IMAGES // 3] = (y[: IMAGES // 3] + 1) % 3
    return net, x, y


@contextmanager
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def _compared(net: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> None:
    """Check the verdicts of the default engine and of copies in torch against those of the model alone."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    dtype = next(net.parameters()).dtype
    plain = attack_verdicts(net, x, y, [resolve(PGD, Ball("Linf", EPS))], engine="plain", batch_size=batch_size)
    for engine in (None, "torch"):
        made: list[Tensor] = []
        attack = watched(resolve(PGD, Ball("Linf", EPS)), made)
        found = attack_verdicts(net, x, y, [attack], engine=engine, batch_size=batch_size)  # type: ignore[arg-type]
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items() if name != "seen")
        with torch.no_grad():
            wanted = torch.cat([net(part.clone().to(dtype)).argmax(1) for part in made]).numpy()
        assert np.array_equal(found[PGD], wanted)
        broken, reference = (np.asarray(each[PGD] != y.numpy()) for each in (found, plain))
        assert np.mean(broken != reference) <= 0.05, f"{engine}: {broken.sum()} broken, {reference.sum()} by the model"
    assert 0 < np.mean(reference) < 1


@pytest.mark.filterwarnings("ignore:the model changes its input in place")
@pytest.mark.parametrize("name", ODD)
def test_verdicts_are_the_plain_models(name: str) -> None:
    _compared(*_made(name), 20)


@pytest.mark.parametrize("name", ["normalisation by buffers", "shared layers"])
def test_one_image_a_batch(name: str) -> None:
    _compared(*_made(name), 1)


@pytest.mark.parametrize("double", [False, True])
def test_numbers_of_64_bits_by_default(double: bool) -> None:
    """The caller's default type of numbers, and a network whose weights are of it."""
    net, x, y = _made("normalisation by tensors made inside" if double else "normalisation by buffers")
    with _double():
        _compared(net.double() if double else net, x, y, 20)


def test_a_hook_that_random_images_do_not_trigger_is_kept() -> None:
    """Random images are grey on average; this layer's output is cut for bright ones."""
    net, _, _ = _made("no normalisation")
    nn.init.constant_(net.first.weight, 0.1)  # type: ignore[attr-defined, arg-type]
    net.first.register_forward_hook(lambda module, given, made: made.clamp(max=1.55))  # type: ignore[attr-defined, operator]
    x = 0.95 + 0.05 * torch.rand(8, 2, SIDE, SIDE)
    with remembered_copies(), frozen(net), torch.no_grad():
        copy = crafting_model(net, x)
        assert torch.allclose(copy(x), net(x), atol=1e-4)
