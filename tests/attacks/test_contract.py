"""The contract of every registered attack, one test a promise. New attacks are tested because the tests read the
registry.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_net import image_rng, random_images, small_net
from torch import Tensor, nn
from torch.nn import functional as F

from fairbench import registry
from fairbench.attacks import Attack, Ball, ImageRNG, Threat, frozen, resolve
from fairbench.attacks.losses import ce, find_loss
from fairbench.attacks.projections import AnyNorm, distance
from fairbench.errors import InvalidInput
from fairbench.evaluation.judge import attack_verdicts
from fairbench.models import build_model, save_checkpoint

ATTACKS = registry.attacks.names()
NORMS = get_args(AnyNorm)
SPEC = "small-cnn:width=4"
EPS = {"Linf": 0.08, "L2": 0.4, "L1": 1.5}
# Budgets that tests can afford; steps of half the radius reach what `resolve` asks for.
BUDGET = {"steps": 4, "rel_step": 0.5, "queries": 20}


def _parameters(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(registry.attacks.get(name)).parameters)


def _norms(name: str) -> tuple[str, ...]:
    return get_args(get_type_hints(registry.attacks.get(name)).get("norm")) or NORMS


def _knows_ball(name: str) -> bool:
    return bool(registry.attacks.details(name).get("ball", True))


NORMED = [(name, norm) for name in ATTACKS for norm in _norms(name)]
# Single attacks with a budget, whose arguments are numbers alone, so that any will do.
SWEPT = [
    (name, norm)
    for name, norm in NORMED
    if _parameters(name).keys() & {"steps", "queries"} and not _parameters(name).keys() & {"surrogate", "note"}
]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Attack]:
    """Return `build(name, norm, eps, classes, shape, **budget)`: the attack with all the arguments it needs."""
    folder = tmp_path_factory.mktemp("surrogates")

    @cache
    def surrogate(classes: int, shape: tuple[int, int, int]) -> Path:
        path = folder / f"{classes}-{'x'.join(map(str, shape))}.safetensors"
        trained = (classes, shape) == (3, (1, 8, 8))
        save_checkpoint(path, _trained(1)[0] if trained else _plain(classes, shape, 1), SPEC, classes, shape)
        return path

    def made(
        name: str,
        norm: str = "Linf",
        eps: float | None = None,
        classes: int = 3,
        shape: tuple[int, int, int] = (1, 8, 8),
        **budget: Any,
    ) -> Attack:
        parameters = _parameters(name)
        given = {key: value for key, value in {**BUDGET, **budget}.items() if key in parameters}
        if "step" in parameters and "step" not in given:
            given["rel_step"] = BUDGET["rel_step"]
        if "surrogate" in parameters:
            given["surrogate"] = surrogate(classes, shape)
        ball = Ball(norm, EPS[norm] if eps is None else eps)  # type: ignore[arg-type]
        return resolve(f"{name}:" + ",".join(f"{key}={value}" for key, value in given.items()), ball)

    return made


def _plain(classes: int, shape: tuple[int, int, int], seed: int, spec: str = SPEC) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(spec, num_classes=classes, shape=shape)


def _net(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """A network with BatchNorm and weights so large that the balls of EPS reach other classes."""
    net = _plain(classes, shape, 0, f"{SPEC},batchnorm=true")
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
    return net.eval()


def _images(n: int, shape: tuple[int, int, int] = (1, 8, 8)) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(3))


def _craft(attack: Attack, net: nn.Module, x: Tensor, y: Tensor, index: Tensor | None = None) -> Tensor:
    rng = ImageRNG(0, torch.arange(len(x)) if index is None else index)
    with frozen(net):
        return attack.craft(net, x, y, rng)


def _check_images(ball: Threat | None, x: Tensor, found: Tensor) -> None:
    assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)
    assert not found.requires_grad
    assert bool(((found >= 0) & (found <= 1)).all())
    if ball is not None:
        assert float(distance(found - x, ball.norm).max()) <= ball.eps * (1 + 1e-5) + 1e-6


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_a_function_of_a_model_images_and_labels_with_all_else_by_name(name: str) -> None:
    parameters = list(_parameters(name).values())
    assert [parameter.name for parameter in parameters[:3]] == ["model", "x", "y"]
    assert {parameter.kind for parameter in parameters[3:]} == {inspect.Parameter.KEYWORD_ONLY}
    assert {"eps", "norm", "rng"} <= {parameter.name for parameter in parameters[3:]}
    assert registry.attacks.details(name)["summary"]
    assert set(_norms(name)) <= set(NORMS)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_is_served_within_its_ball_or_refused_in_one_line(
    name: str, norm: str, build: Callable[..., Attack]
) -> None:
    if norm not in _norms(name):
        with pytest.raises(InvalidInput) as caught:
            build(name, norm)
        assert f"is defined in {' and '.join(_norms(name))}, not in {norm}" in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    for classes, shape in ((2, (1, 8, 8)), (3, (1, 1, 1)), (10, (3, 5, 7))):
        attack, net, x = build(name, norm, classes=classes, shape=shape), _net(classes, shape), _images(9, shape)
        y = net(x).argmax(1)
        y[0] = (y[0] + 1) % classes
        _check_images(attack.threat, x, _craft(attack, net, x, y))


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(SWEPT), st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 2), st.integers(1, 8))
def test_any_radius_step_and_budget_stay_in_the_ball_and_in_the_box(
    case: tuple[str, str], seed: int, eps: float, step: float, budget: int
) -> None:
    name, norm = case
    asked = {"steps": budget, "queries": 8 * budget, "step": step}
    given_here = {key: value for key, value in asked.items() if key in _parameters(name)}
    x, y = random_images(5, seed), torch.arange(5) % 4
    found = registry.attacks.get(name)(small_net(), x, y, eps=eps, norm=norm, rng=image_rng(5, seed), **given_here)
    _check_images(Ball(norm, eps), x, found)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ATTACKS)
def test_one_image_alone_is_attacked_like_among_others_whatever_its_layout(
    name: str, build: Callable[..., Attack]
) -> None:
    shape = (3, 6, 6)
    attack, net, x = build(name, shape=shape), _net(3, shape), _images(8, shape)
    y = net(x).argmax(1)
    plain = _craft(attack, net, x, y)
    wide = torch.empty(8, 3, 6, 12)
    wide[..., ::2] = x
    for laid_out in (x.to(memory_format=torch.channels_last), wide[..., ::2]):
        assert torch.equal(laid_out, x)
        found = _craft(attack, net, laid_out, y)
        _check_images(attack.threat, x, found)
        assert torch.equal(net(found).argmax(1), net(plain).argmax(1))
    alone = _craft(attack, net, x[3:4], y[3:4], torch.tensor([3]))
    _check_images(attack.threat, x[3:4], alone)
    if not registry.attacks.details(name).get("whole_set", False):
        assert torch.equal(net(alone).argmax(1), net(plain[3:4]).argmax(1))


@pytest.mark.parametrize("name", [name for name in ATTACKS if _knows_ball(name)])
def test_a_ball_of_radius_zero_holds_the_image_alone(name: str, build: Callable[..., Attack]) -> None:
    for norm in _norms(name):
        net, x = _net(3, (1, 8, 8)), _images(6)
        y = net(x).argmax(1)
        y[:2] = (y[:2] + 1) % 3
        assert torch.equal(_craft(build(name, norm, 0.0), net, x, y), x)


@pytest.mark.parametrize("name", ATTACKS)
def test_it_leaves_model_images_and_labels_as_they_were(name: str, build: Callable[..., Attack]) -> None:
    """The parameters require gradients and have some; only the caller may freeze them."""
    net, x = _net(3, (1, 8, 8)), _images(6)
    y = net(x).argmax(1)
    next(net.parameters()).requires_grad_(False)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    images, labels, seed = x.clone(), y.clone(), torch.random.get_rng_state()
    build(name).craft(net, x, y, ImageRNG(0, torch.arange(6)))
    assert torch.equal(x, images)
    assert not x.requires_grad
    assert torch.equal(y, labels)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert [parameter.requires_grad for parameter in net.parameters()] == [False] + [True] * (
        len(list(net.parameters())) - 1
    )
    assert all(bool((parameter.grad == 1).all()) for parameter in net.parameters() if parameter.grad is not None)
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert not any(module.training for module in net.modules())
    assert torch.equal(torch.random.get_rng_state(), seed)


@cache
def _trained(seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """A network for three classes of noisy 8x8 images, and 200 of them: about half of them break at EPS."""
    draw = torch.Generator().manual_seed(0)
    patterns = torch.kron(torch.eye(4).view(4, 2, 2), torch.ones(4, 4))[:3]

    def sample(n: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(n) % 3
        strength = 0.05 + 0.3 * torch.rand(n, 1, 1, generator=draw)
        return (0.5 * torch.rand(n, 8, 8, generator=draw) + strength * patterns[y])[:, None], y

    net = _plain(3, (1, 8, 8), seed)
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(150):
        x, y = sample(60)
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    return net.eval(), *sample(200)


@pytest.mark.parametrize(
    ("name", "norm"), [pair for pair in NORMED if not registry.attacks.details(pair[0]).get("whole_set")]
)
def test_order_and_batch_size_change_no_more_verdicts_than_rounding_does(
    name: str, norm: str, build: Callable[..., Attack]
) -> None:
    net, x, y = _trained()
    attack, order = build(name, norm), torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    whole, parts = _craft(attack, net, x, y), torch.empty_like(x)
    _check_images(attack.threat, x, whole)
    for index in torch.split(order, 33):
        parts[index] = _craft(attack, net, x[index], y[index], index)
    agree = (net(whole).argmax(1) == net(parts).argmax(1)).float().mean()
    assert float(agree) >= 0.995
    assert float((whole - parts).abs().amax((1, 2, 3)).le(1e-4).float().mean()) >= 0.95


LONGER = [(name, key) for name in ATTACKS for key in ("steps", "queries") if key in _parameters(name)]


@pytest.mark.parametrize(("name", "key"), LONGER)
def test_more_steps_never_help_the_defender(name: str, key: str, build: Callable[..., Attack]) -> None:
    net, x, y = _trained()
    budgets = {"steps": (4, 20), "queries": (20, 100)}[key]
    right = []
    for budget in budgets:
        attack = build(name, **{key: budget})
        verdicts = attack_verdicts(net, x, y.numpy(), [attack], batch_size=200)
        right.append(int(np.sum(verdicts[attack.text] == y.numpy())))
    clean = int((net(x).argmax(1) == y).sum())
    # as for flags: by no more than the larger of 0.2 points and 2 images
    assert right[1] <= right[0] + max(0.002 * len(y), 2)
    assert right[1] < 0.8 * clean


@pytest.mark.parametrize("name", [name for name in ATTACKS if "loss" in _parameters(name)])
def test_a_loss_by_name_is_the_loss_itself(name: str, build: Callable[..., Attack]) -> None:
    net, x, y = _trained()
    for loss in ("ce", "dlr"):
        attack = build(name, loss=loss)
        assert [part.__name__ for part in attack.parts[1:]] == [loss]
        found = _craft(attack, net, x[:40], y[:40])
        if name in ("pgd", "mim"):
            function, own = registry.attacks.get(name), ce if loss == "ce" else find_loss("dlr")
            settings = {"eps": EPS["Linf"], "steps": 4, "step": EPS["Linf"] / 2, "loss": own}
            with frozen(net):
                expected = function(net, x[:40], y[:40], rng=ImageRNG(0, torch.arange(40)), **settings)
            assert torch.equal(found, expected)
