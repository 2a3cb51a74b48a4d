from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairbench import registry
from fairbench.attacks import Ball, ImageRNG, pgd, resolve
from fairbench.errors import InvalidInput, UnknownName
from fairbench.evaluation.evaluate import evaluate
from fairbench.registration import register_attack
from fairbench.suites.sections import ThreatSection

EIGHT = Ball("Linf", 8 / 255)


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).requires_grad_(False)


def _data() -> tuple[Tensor, Tensor, ImageRNG]:
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(8) % 4, ImageRNG(0, torch.arange(8))


@pytest.mark.parametrize(
    ("text", "steps", "step"),
    [
        ("pgd-20", 20, 0.003),
        ("pgd", 20, 0.003),
        ("pgd-20:step=0.01", 20, 0.01),
        ("pgd-10:rel_step=0.25", 10, 2 / 255),
        ("pgd:steps=10,rel_step=1/4", 10, 2 / 255),
        ("pgd-2:rel_step=0.75", 2, 6 / 255),
    ],
)
def test_names_set_steps_and_step_sizes(text: str, steps: int, step: float) -> None:
    net, (x, y, rng) = _net(), _data()
    found = resolve(text, EIGHT).craft(net, x, y, rng)
    assert torch.equal(found, pgd(net, x, y, eps=8 / 255, steps=steps, step=step, rng=rng))


def test_default_steps_scale_with_eps() -> None:
    net, (x, y, rng) = _net(), _data()
    found = resolve("pgd-20", Ball("Linf", 0.2)).craft(net, x, y, rng)
    assert torch.allclose(found, pgd(net, x, y, eps=0.2, step=0.003 * 0.2 / (8 / 255), rng=rng), atol=1e-6)


def test_text_is_canonical_and_name_is_what_stands_before_the_colon() -> None:
    attack = resolve("pgd-20:rel_step=1/4,iterate=last", EIGHT)
    assert (attack.name, attack.text) == ("pgd-20", "pgd-20:iterate=last,rel_step=0.25")
    assert resolve(attack.text, EIGHT).text == attack.text
    assert resolve("cw-30", EIGHT).text == "cw-30"
    assert attack.batch_size is None
    assert resolve("autoattack", EIGHT).batch_size is not None


def test_every_registered_attack_resolves_and_states_what_it_is() -> None:
    assert {"autoattack", "clean", "cw", "fgsm", "pgd"} <= set(registry.attacks.names())
    for name in ("autoattack", "clean", "cw", "fgsm", "pgd"):
        assert resolve(name, EIGHT).threat is EIGHT
        assert registry.attacks.details(name)["summary"]


def test_a_suites_threat_will_do() -> None:
    net, (x, y, rng) = _net(), _data()
    found = resolve("pgd-20:step=0.1", ThreatSection(norm="L2", eps=0.5)).craft(net, x, y, rng)
    assert torch.equal(found, pgd(net, x, y, eps=0.5, norm="L2", step=0.1, rng=rng))


@pytest.mark.parametrize("text", ["pgd-10", "pgd-15", "pgd-20:step=0.002", "pgd-2:rel_step=0.7", "cw-3"])
def test_steps_too_short_to_cross_the_ball_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"less than 1\.5 eps; take more steps, or larger ones with rel_step="):
        resolve(text, EIGHT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pgf-20", "unknown attack 'pgf'; did you mean 'pgd'"),
        ("fgsm-3", "does not take a number of steps"),
        ("union", "unknown attack 'union'"),
        ("pgd-20:stpe=0.1", "unknown argument of pgd-20 'stpe'; did you mean 'step'"),
        ("fgsm:step=0.1", "unknown argument of fgsm 'step'"),
        ("pgd-20:eps=0.1", "unknown argument of pgd-20 'eps'"),
        ("pgd-20:steps=5", "number of steps is given twice"),
        ("pgd:steps=0__2", "pgd:steps=0__2: steps: should be a number, got '0__2'"),
        ("pgd-20:step=0.1,rel_step=0.1", "step or rel_step, not both"),
        ("pgd-20:rel_step=big", "rel_step is a number"),
        ("pgd-20:step=big", "step: input should be a valid number"),
        ("pgd-20:step=-0.1", "step: input should be greater than or equal to 0"),
        ("pgd-20:step=inf", "step: input should be a finite number"),
        ("pgd-0:step=1", "steps: input should be greater than or equal to 1"),
        ("pgd-20:iterate=first", "iterate: input should be 'any' or 'last'"),
        ("pgd-20:loss=msee", "unknown loss 'msee'; known: ce, cw, dlr, kl"),
        ("pgd-20:loss=dlrr", "unknown loss 'dlrr'; did you mean 'dlr'"),
        ("mim-20:loss=7", "loss"),
        ("transfer-20:surrogate=x,loss=cv", "unknown loss 'cv'; did you mean 'cw'"),
        ("pgd-20:loss=nowhere_at_all:ce", "loss 'nowhere_at_all:ce': nowhere_at_all cannot be imported"),
        ("pgd-20:random_start=maybe", "random_start: input should be a valid boolean"),
        ("autoattack:attacks=apgd-ce+fap", "unknown component of AutoAttack 'fap'; did you mean 'fab'"),
        ("autoattack:version=fast", "version: input should be 'standard', 'plus' or 'rand'"),
    ],
)
def test_bad_names_and_arguments_are_one_line(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        resolve(text, EIGHT)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_ball_has_a_known_norm_and_a_finite_radius() -> None:
    with pytest.raises(UnknownName, match="did you mean 'Linf'"):
        Ball("lnf", 0.1)  # type: ignore[arg-type]
    for eps in (-0.1, math.nan, math.inf):
        with pytest.raises(InvalidInput, match="eps is a distance"):
            Ball("Linf", eps)
    assert Ball("L2", 0.0).eps == 0


ENSEMBLE = "autoattack-fast:steps=5,queries=20"


@pytest.mark.parametrize(
    "text", ["clean", "apgd-ce-5", "apgd-dlr-5", "apgd-t:steps=5", "fab-t-5", "square:queries=20", ENSEMBLE]
)
def test_l1_for_attacks_that_know_it(text: str) -> None:
    net, (x, y, rng) = _net(), _data()
    attack = resolve(text, Ball("L1", 0.5))
    assert attack.threat == Ball("L1", 0.5)
    x_adv = attack.craft(net, x, y, rng)
    assert float((x_adv - x).flatten(1).abs().sum(1).max()) <= 0.5 + 1e-5


@pytest.mark.parametrize("text", ["fgsm", "pgd-20", "cw-30", "mim-20", "pgd-t-20"])
def test_l1_for_attacks_that_do_not_is_one_line(text: str) -> None:
    with pytest.raises(InvalidInput, match="is defined in Linf and L2, not in L1"):
        resolve(text, Ball("L1", 0.5))


def test_an_attack_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("_loaded", "_details", "_source"):
        monkeypatch.setattr(registry.attacks, table, dict(getattr(registry.attacks, table)))

    @register_attack("brighter", summary="adds a share of eps to every pixel")
    def brighter(
        model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, rng: ImageRNG, share: float = 1.0
    ) -> Tensor:
        return (x + share * eps).clamp(max=1)

    @register_attack("walk", summary="takes steps of its own size unless told otherwise")
    def walk(
        model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, rng: ImageRNG, steps: int = 3, step: float = 1
    ) -> Tensor:
        return (x + steps * step).clamp(x - eps, x + eps).clamp(0, 1)

    net, (x, y, rng) = _net(), _data()
    assert torch.equal(resolve("brighter:share=0.5", EIGHT).craft(net, x, y, rng), (x + 4 / 255).clamp(max=1))
    assert torch.equal(resolve("walk-7", EIGHT).craft(net, x, y, rng), (x + 8 / 255).clamp(max=1))


def _untyped(model: nn.Module, x: Tensor, y: Tensor, *, eps, norm, rng, share=1.0) -> Tensor:  # type: ignore[no-untyped-def]
    return x


def _nothing(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, rng: ImageRNG) -> None:
    return None


def _failing(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, rng: ImageRNG) -> Tensor:
    raise KeyError("zz")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_untyped, "own: the parameter 'share' of _untyped needs a type"),
        (_nothing, "own: returned NoneType, not a tensor of images"),
        (_failing, "own: KeyError: 'zz'"),
    ],
)
def test_an_attack_that_breaks_the_contract_is_named(
    function: Callable[..., Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("_loaded", "_details", "_source"):
        monkeypatch.setattr(registry.attacks, part, dict(getattr(registry.attacks, part)))
    register_attack("own", summary="one of a user")(function)
    with pytest.raises(InvalidInput) as caught:
        evaluate(nn.Flatten(), (torch.rand(4, 1, 1, 2), torch.arange(4) % 2), attacks=["own"], eps=0.1, flags=False)
    assert str(caught.value) == message


def test_any_attack_can_be_restricted_to_the_first_images_of_every_class() -> None:
    attack = resolve("pgd-20:per_class=3,step=0.01", Ball("Linf", 0.1))
    assert (attack.per_class, attack.text) == (3, "pgd-20:per_class=3,step=0.01")
    assert resolve("clean:per_class=1", Ball("Linf", 0.1)).per_class == 1
    assert resolve("pgd-20", Ball("Linf", 0.1)).per_class is None


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "true", "some"])
def test_a_subset_has_a_whole_number_of_images_a_class(value: str) -> None:
    with pytest.raises(InvalidInput, match=r"^fgsm:per_class=\S+: per_class is a number of images, at least 1, not "):
        resolve(f"fgsm:per_class={value}", Ball("Linf", 0.1))
