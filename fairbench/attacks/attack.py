"""Attacks by name: a name with arguments and a threat model give an attack that can be run."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, get_args, get_type_hints

from torch import Tensor, nn

from fairbench import registry
from fairbench.attacks.crafting import craft_by_rule
from fairbench.attacks.losses import find_loss
from fairbench.attacks.projections import AnyNorm, as_norm, diameter
from fairbench.attacks.random import ImageRNG
from fairbench.errors import InvalidInput, UnknownName
from fairbench.plugins.arguments import typed
from fairbench.plugins.calls import parse_call, parse_value

__all__ = ["Attack", "Ball", "Craft", "Note", "Threat", "check_fits", "resolve"]

Craft = Callable[[nn.Module, Tensor, Tensor, ImageRNG], Tensor]
# An ensemble calls this for each component, in order, with its name and int64 [K]: the images of the batch it broke.
Note = Callable[[str, Tensor], None]

# The ABSLD family's PGD-20: steps of 0.003 at eps 8/255, scaled with eps.
_REL_STEP = 0.003 / (8 / 255)
_REACH = 1.5
_GIVEN = ("eps", "norm", "rng", "note")


class Threat(Protocol):
    """A threat model: a norm, "Linf", "L2" or "L1", and a radius in pixel units of [0,1]."""

    @property
    def norm(self) -> AnyNorm:
        """The norm of the perturbation."""

    @property
    def eps(self) -> float:
        """The radius of the ball."""


@dataclass(frozen=True)
class Ball:
    """The threat model of all images in [0,1] at distance at most `eps` in `norm`.

    The norm may be written as other libraries write it (np.inf, "linf", 2), and eps as a fraction ("8/255"). Raises
    UnknownName for any other norm, and InvalidInput for an invalid radius, which in Linf includes radii above 1.
    """

    norm: AnyNorm = "Linf"
    eps: float = 8 / 255

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", as_norm(self.norm))
        object.__setattr__(self, "eps", _number(self.eps))
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise InvalidInput(f"eps is a distance in pixel units of [0,1], at least 0, not {self.eps}")
        if self.norm == "Linf":
            check_fits(self, 1)


def _number(eps: object) -> float:
    """Read a number, or a fraction written as text."""
    value = parse_value(eps) if isinstance(eps, str) else eps
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InvalidInput(f"eps is a number or a fraction such as 8/255, not {eps!r:.80}") from None


def check_fits(threat: Threat, numbers: int) -> None:
    """Raise InvalidInput if the ball around an image of so many numbers contains every image of [0,1]."""
    most = diameter(threat.norm, numbers)
    if threat.eps > most:
        raise InvalidInput(
            f"eps {threat.eps:g} in {threat.norm} reaches beyond every image: pixels are in [0,1], and two images are "
            f"at most {most:.4g} apart; a budget in grey levels is {threat.eps:g}/255"
        )


@dataclass(frozen=True)
class Attack:
    """An attack with all its arguments: `craft(model, x, y, rng) -> x_adv`, for a frozen model.

    `name` is the part before the colon; `text` is the canonical form, by which verdicts are stored. `batch_size` is the
    number of images that `craft` needs at once, or None if the evaluator may choose. `threat` is the ball that x_adv
    must lie in, or None for an attack without a ball. `ensemble` is `craft` with a Note, which is told which component
    broke which image. `parts` are the functions that the text names: the attack itself and its loss. `copied` says
    whether `craft` may use a faster copy of the model in an evaluation, or does so "always". `per_class` K restricts an
    evaluation to the first K images of every class; None attacks every image.
    """

    name: str
    text: str
    craft: Craft
    batch_size: int | None = None
    threat: Threat | None = None
    ensemble: Callable[[nn.Module, Tensor, Tensor, ImageRNG, Note], Tensor] | None = None
    parts: tuple[Callable[..., Any], ...] = ()
    copied: bool | Literal["always"] = False
    per_class: int | None = None


def resolve(text: str, threat: Threat) -> Attack:
    """Return the attack that `text` names: `pgd-20`, `cw-30:step=0.003`, `pgd-40:rel_step=0.25,iterate=last`.

    `name-K` sets `steps`. `step` is in pixel units, `rel_step` in units of eps; the default step is 0.003/(8/255) eps.
    Every attack takes `per_class=K`, which is part of its text and restricts it to the first K images of every class.
    Raises UnknownName for an unknown name or argument, and InvalidInput for an invalid value, for a norm in which the
    attack is not defined, and for steps that together reach less than 1.5 eps.
    """
    call = parse_call(text)
    name, arguments = _split_steps(call.name, dict(call.arguments))
    per_class = _subset(text, arguments.pop("per_class", None))
    function = _registered(name)
    hints = get_type_hints(function, include_extras=True)
    norms = get_args(hints.get("norm"))
    if norms and threat.norm not in norms:
        raise InvalidInput(f"{text}: is defined in {' and '.join(norms)}, not in {threat.norm}")
    parameters = _parameters(text, function, hints)
    arguments = _check(text, _absolute_step(text, arguments, parameters, threat.eps), parameters)
    _check_reach(text, arguments, threat.eps)
    bound = partial(function, eps=threat.eps, norm=threat.norm, **arguments)
    details = registry.attacks.details(name)
    return Attack(
        call.name,
        str(call),
        _by_rule(bound, arguments, details.get("copies")),
        batch_size=sys.maxsize if details.get("whole_set", False) else None,
        threat=threat if details.get("ball", True) else None,
        ensemble=(lambda model, x, y, rng, note: bound(model, x, y, rng=rng, note=note)) if "note" in hints else None,
        parts=(function, *(find_loss(value) for key, value in arguments.items() if key == "loss")),
        copied="always" if details.get("copies") == "always" else bool(details.get("copies")),
        per_class=per_class,
    )


def _registered(name: str) -> Callable[..., Any]:
    """Return the function of an attack; of `pgd20`, which is none, the message suggests `pgd-20`."""
    known = registry.attacks.names()
    match = re.fullmatch(r"([a-z_]+)([0-9]{1,9})", name)
    if match and name not in known and match[1] in known:
        raise UnknownName("attack", name, [f"{match[1]}-{match[2]}"])
    function: Callable[..., Any] = registry.attacks.get(name)
    return function


def _parameters(text: str, function: Callable[..., Any], hints: dict[str, Any]) -> dict[str, Any]:
    """Return type and default of the arguments that an attack's name takes; a missing default is `...`."""
    found: dict[str, Any] = {}
    for key, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and key not in _GIVEN:
            if key not in hints:
                raise InvalidInput(f"{text}: the parameter {key!r} of {function.__name__} needs a type")
            found[key] = hints[key], ... if parameter.default is parameter.empty else parameter.default
    return found


def _by_rule(bound: partial[Any], arguments: dict[str, Any], copies: Any) -> Craft:
    """Let an attack registered with `copies` craft with a copy of the model; `copies` is True, or "float32" for float32
    only.
    """
    if not copies or copies == "always":  # the attack makes its own copies
        return lambda model, x, y, rng: bound(model, x, y, rng=rng)
    fast = arguments.get("fast")
    run = partial(bound, fast=False) if "fast" in arguments else bound
    return lambda model, x, y, rng: craft_by_rule(run, model, x, y, rng, fast=fast, bf16=copies != "float32")


def _subset(text: str, value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise InvalidInput(f"{text}: per_class is a number of images, at least 1, not {value!r:.40}")


def _split_steps(name: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Read K from `pgd-K`, unless the whole name is registered."""
    match = re.fullmatch(r"(.+)-([0-9]{1,9})", name)
    if match is None or name in registry.attacks.names():
        return name, arguments
    if "steps" in arguments:
        raise InvalidInput(f"{name}: the number of steps is given twice, by the name and by steps=")
    return match[1], {**arguments, "steps": int(match[2])}


def _absolute_step(text: str, arguments: dict[str, Any], parameters: dict[str, Any], eps: float) -> dict[str, Any]:
    """Replace rel_step by `step` in pixel units, and add the default step if the attack has none of its own."""
    if "step" not in parameters:
        return arguments
    relative = arguments.pop("rel_step", None)
    if relative is None:
        missing = "step" not in arguments and parameters["step"][1] is ...
        return {**arguments, "step": _REL_STEP * eps} if missing else arguments
    if "step" in arguments:
        raise InvalidInput(f"{text}: give step or rel_step, not both")
    if isinstance(relative, bool) or not isinstance(relative, int | float):
        raise InvalidInput(f"{text}: rel_step is a number in units of eps, not {relative!r}")
    return {**arguments, "step": relative * eps}


def _check(text: str, arguments: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    for key in arguments:
        if key == "steps" and key not in parameters:
            raise InvalidInput(f"{text}: this attack does not take a number of steps")
        if key not in parameters:
            known = [*parameters, "rel_step"] if "step" in parameters else list(parameters)
            raise UnknownName(f"argument of {text.partition(':')[0]}", key, known)
    return typed(text, arguments, parameters)


def _check_reach(text: str, arguments: dict[str, Any], eps: float) -> None:
    if not {"steps", "step"} <= arguments.keys():
        return
    reach = arguments["steps"] * arguments["step"]
    if reach < _REACH * eps * (1 - 1e-9):
        raise InvalidInput(
            f"{text}: {arguments['steps']} steps of {arguments['step']:.4g} reach {reach / eps:.2f} eps, less than "
            f"{_REACH} eps; take more steps, or larger ones with rel_step={_REACH / arguments['steps']:.2g} or more"
        )
