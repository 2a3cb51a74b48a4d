from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from math import nan
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairbench import evaluate
from fairbench.attacks import Ball, copying
from fairbench.copies import folded
from fairbench.errors import InvalidInput
from fairbench.evaluation.attack_flags import Subset, _Attacks, share_flag, true_share
from fairbench.evaluation.flags import SUBSET, raise_flags
from fairbench.evaluation.verdicts import Flag

CLASSES = 4
EPS = 0.1
LINF = Ball("Linf", EPS)
NAMES = {
    "random-forward",
    "batch-dependent",
    "bad-gradient",
    "logit-scale",
    "not-monotone",
    "survives-large-eps",
    "steps-help-defender",
    "black-box-wins",
    "outside-ball",
    "small-n",
}


def _quadrants() -> Tensor:
    """Float32 [C,36]: which pixels of a 6x6 image are brighter in which class."""
    return torch.kron(torch.eye(CLASSES).view(CLASSES, 2, 2), torch.ones(3, 3)).flatten(1)


def _data(per_class: int = 30) -> tuple[Tensor, Tensor]:
    """Noise of [0.3, 0.5), with a class's quadrant brighter by 0.05 to 0.25: eps 0.1 breaks about half of them."""
    labels = torch.arange(CLASSES * per_class) % CLASSES
    draw = torch.Generator().manual_seed(0)
    noise = 0.3 + 0.2 * torch.rand(len(labels), 36, generator=draw)
    strength = 0.05 + 0.2 * torch.rand(len(labels), 1, generator=draw)
    return (noise + strength * _quadrants()[labels]).view(-1, 1, 6, 6), labels


class Plain(nn.Module):
    """Compares the mean brightness of the quadrants."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ _quadrants().T


class Changed(Plain):
    """A plain model that something is done to, on the way in or out."""

    def __init__(
        self, before: Callable[[Tensor], Tensor] | None = None, after: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.before, self.after = before or (lambda x: x), after or (lambda x: x)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(super().forward(self.before(x)))


class Remembers(Plain):
    """Knows the images and their classes, and says so where `attacked`, of the distances [B,36] to the nearest one."""

    def __init__(self, attacked: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.images, self.labels = _data()
        self.attacked = attacked

    def forward(self, x: Tensor) -> Tensor:
        away = (x.detach()[:, None] - self.images).flatten(2).abs()
        nearest = away.amax(2).argmin(1)
        known = 10.0 * F.one_hot(self.labels[nearest], CLASSES) + 0 * super().forward(x)
        found = self.attacked(away[torch.arange(len(x)), nearest])
        return torch.where(found[:, None], known, super().forward(x))


def _red(model: nn.Module, ball: Ball = LINF, **how: Any) -> set[str]:
    flags = raise_flags(model, *_data(**how), ball)
    assert flags.keys() == NAMES
    assert all(isinstance(flag.value, float) and isinstance(flag.red, bool) for flag in flags.values())
    return {name for name, flag in flags.items() if flag.red}


@pytest.mark.parametrize(("norm", "eps"), [("Linf", EPS), ("L2", 0.4), ("L1", 2.0)])
def test_a_plain_model_raises_none(norm: Any, eps: float) -> None:
    flags = raise_flags(Plain(), *_data(), Ball(norm, eps))
    assert {name for name, flag in flags.items() if flag.red} == set()
    assert flags["small-n"] == Flag(30.0, False)
    assert flags["logit-scale"].value > 0


def _one_hot(z: Tensor) -> Tensor:
    """Predictions without any gradient, which stay the same in small balls."""
    return F.one_hot(z.argmax(1), CLASSES).float()


def _nan_gradient(x: Tensor) -> Tensor:
    """Zero, whose derivative is 0 times infinity."""
    return x + (x - x.detach()).abs().sqrt()


def _wrong_way(x: Tensor) -> Tensor:
    return 2 * x.detach() - x


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Changed(before=lambda x: F.dropout(x, 0.2, training=True)), {"random-forward"}),
        (Changed(before=lambda x: F.batch_norm(x, None, None, training=True)), {"batch-dependent"}),
        (Changed(after=lambda z: 1e5 * z), {"bad-gradient", "logit-scale"}),
        (Changed(after=lambda z: z.softmax(1)), {"logit-scale"}),
        (Changed(before=lambda x: (32 * x).round() / 32), {"bad-gradient", "black-box-wins", "survives-large-eps"}),
        (Changed(after=Tensor.detach), {"bad-gradient", "black-box-wins", "survives-large-eps"}),
        (Changed(after=_one_hot), {"bad-gradient", "logit-scale"}),
        (Changed(before=_wrong_way), {"black-box-wins", "survives-large-eps"}),
        (Changed(before=_nan_gradient), {"bad-gradient", "black-box-wins", "survives-large-eps"}),
        (Remembers(lambda away: away.amax(1) > 1.5 * EPS), {"not-monotone", "survives-large-eps"}),
        (Remembers(lambda away: (away.amax(1) > 1e-3) & (away.amin(1) < 0.9 * EPS)), {"steps-help-defender"}),
    ],
    ids=[
        "dropout",
        "batchnorm",
        "scaled",
        "softmax",
        "rounded",
        "detached",
        "one-hot",
        "wrong-way",
        "nan",
        "large",
        "steps",
    ],
)
def test_a_model_built_to_trip_a_flag_does(model: nn.Module, expected: set[str]) -> None:
    torch.manual_seed(0)
    assert _red(model) >= expected


def _dead_below(x: Tensor, edge: float) -> Tensor:
    """What a ReLU with a negative bias leaves of images."""
    return (x - edge).relu()


def test_a_zero_gradient_is_right_where_the_model_is_constant_in_the_ball() -> None:
    images, labels = _data()
    top = float(images.max())
    blind = torch.arange(len(labels)) < 20
    images = torch.where(blind[:, None, None, None], 0.3 * images, images)
    model = Changed(before=lambda x: _dead_below(x, 0.3 * top + 1.01 * EPS))
    gradient = images.clone().requires_grad_()
    F.cross_entropy(model(gradient), labels, reduction="sum").backward()
    assert gradient.grad is not None
    dead = (gradient.grad == 0).flatten(1).all(1)
    assert torch.equal(dead, blind)
    for norm, eps in (("Linf", EPS), ("L2", EPS), ("L1", EPS)):
        assert raise_flags(model, images, labels, Ball(norm, eps))["bad-gradient"] == Flag(0.0, False)  # type: ignore[arg-type]
    # a larger ball reaches where the same model changes: there the zero hides something
    assert raise_flags(model, images, labels, Ball("Linf", 4 * EPS))["bad-gradient"] == Flag(0.2, True)


def test_a_constant_model_has_no_bad_gradient() -> None:
    assert "bad-gradient" not in _red(Changed(after=lambda z: 0 * z + torch.eye(CLASSES)[0]))


def test_gradients_that_are_not_finite_lead_out_of_the_ball() -> None:
    assert _red(Changed(before=_nan_gradient), Ball("L2", 0.4)) >= {"bad-gradient", "outside-ball"}


def test_few_images_of_a_class_are_flagged_and_classes_that_are_absent_are_not() -> None:
    assert _red(Plain(), per_class=5) == {"small-n"}
    images, labels = _data()
    flags = raise_flags(Plain(), images[labels < 2], labels[labels < 2], LINF)
    assert flags["small-n"] == Flag(30.0, False)


def test_one_image_is_enough_to_look_at() -> None:
    images, labels = _data()
    flags = raise_flags(Plain(), images[:1], labels[:1], LINF)
    assert {name for name, flag in flags.items() if flag.red} == {"small-n"}


def test_it_looks_at_the_first_images_of_every_class_whatever_their_number() -> None:
    images, labels = _data(per_class=60)
    order = torch.cat([torch.arange(len(labels))[labels == c] for c in range(CLASSES)])
    shown: list[Tensor] = []
    model = Changed(before=lambda x: shown.append(x) or x)
    raise_flags(model, images[order], labels[order], LINF)
    first = [part for part in shown if isinstance(part, Tensor) and not part.requires_grad][1]
    expected = images[order].view(CLASSES, 60, 1, 6, 6)[:, : SUBSET // CLASSES].flatten(0, 1)
    assert torch.equal(first, expected)


@pytest.mark.parametrize(
    ("broken", "images", "red"), [(2, 100, False), (3, 100, True), (20, 10000, False), (21, 10000, True), (1, 1, False)]
)
def test_a_flag_is_red_above_the_larger_of_two_images_and_a_fifth_of_a_point(
    broken: int, images: int, red: bool
) -> None:
    assert share_flag(broken / images, images).red is red


def test_two_images_of_a_hundred_are_never_more_than_two():
    right = torch.arange(100)
    for fewer in range(99):
        assert not share_flag(true_share(right < fewer + 2) - true_share(right < fewer), 100).red


def test_an_evaluation_has_flags_that_change_no_verdict_and_leave_the_model_as_it_was() -> None:
    images, labels = _data()
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, CLASSES)).train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with_flags = evaluate(net, (images, labels), attacks=["clean", "pgd-20"], eps=EPS)
    without = evaluate(net, (images, labels), attacks=["clean", "pgd-20"], eps=EPS, flags=False)
    assert with_flags.flags.keys() == NAMES
    assert without.flags == {}
    assert all(np.array_equal(with_flags.verdicts[name], without.verdicts[name]) for name in without.verdicts)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())


def test_a_model_without_gradients_can_be_evaluated_and_is_flagged() -> None:
    report = evaluate(Changed(after=Tensor.detach), _data(), attacks=["square:queries=20"], eps=EPS)
    assert report.flags["bad-gradient"] == Flag(1.0, True)
    assert report.average < 1


def test_a_model_that_fails_beyond_its_own_images_is_flagged_not_an_error() -> None:
    flags = raise_flags(
        Changed(before=lambda x: torch.where(x.amax((1, 2, 3), keepdim=True) > 0.95, nan, x)), *_data(), LINF
    )
    assert flags["survives-large-eps"].red


def test_errors_are_those_of_an_evaluation() -> None:
    with pytest.raises(InvalidInput, match="logits are not finite"):
        raise_flags(Changed(after=lambda z: z / 0), *_data(), LINF)


def test_radii_in_one_batch_give_what_each_gives_alone() -> None:
    images, labels = _data()
    subset = Subset(Plain(), images, labels, LINF, 0)
    attacks = _Attacks(subset, Plain()(images).argmax(1) == labels)
    radii = (EPS, EPS / 2, 0.5)
    together = attacks.ascents(radii)
    for radius, (found, right) in zip(radii, together, strict=True):
        ((alone, standing),) = attacks.ascents((radius,))
        assert torch.equal(found, alone)
        assert torch.equal(right, standing)
        assert float((found - images).abs().max()) <= radius + 1e-6
    assert 0 < int(together[0][1].sum()) < int(together[1][1].sum())


@pytest.mark.parametrize("in_place", [False, True])
def test_flags_find_the_copy_that_the_evaluation_made(monkeypatch: pytest.MonkeyPatch, in_place: bool) -> None:
    """Also that of a model that is given copies of its images, which is wrapped anew by every look at it."""
    made: list[nn.Module] = []
    monkeypatch.setattr(copying, "folded", lambda model: made.append(model) or folded(model))
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
    model = Changed(before=lambda x: x.mul_(2)) if in_place else net
    asked: dict[str, Any] = {"attacks": ["pgd-2:rel_step=1"], "eps": EPS, "engine": "torch"}
    with nullcontext() if not in_place else pytest.warns(UserWarning, match="changes its input in place"):
        evaluate(model, _data(), **asked)
    assert len(made) == 1


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.5 / 255), ("Linf", 1 / 255), ("L2", 0.01), ("L1", 0.1)])
def test_the_rounding_of_pixels_is_no_step_out_of_a_small_ball(norm: Any, eps: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, CLASSES))
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    found = raise_flags(model, images, np.arange(24) % CLASSES, Ball(norm, eps))
    assert found["outside-ball"] == Flag(0.0, red=False)
