"""Building a network by name; networks map images in [0, 1] to logits."""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fairbench.errors import FairbenchError, InvalidInput, UnknownName
from fairbench.plugins.arguments import typed
from fairbench.plugins.calls import import_callable, names_code, parse_call
from fairbench.registry import models

__all__ = ["Normalize", "build_model", "builder_of", "check_normalisation", "is_registered", "normalized"]

_GATHERING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation, one each per channel: x float [B,C,H,W]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Return x with every channel normalised."""
        return (x - self.mean[:, None, None]) / self.std[:, None, None]


def build_model(
    spec: str,
    *,
    num_classes: int,
    shape: tuple[int, int, int],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Module:
    """Build a network for images of `shape` (C, H, W), with weights drawn from torch's global generator.

    `spec` is a registered name with arguments, such as `small-cnn:width=16`, or `module:callable`. A registered
    function gets the number of classes, the shape and the arguments, converted to the types that it states; a callable
    of a module gets those of the keywords `num_classes` and `shape` that it takes. With `mean` and `std` (C numbers
    each) the first layer normalises. Raises UnknownName for an unknown name or argument, InvalidInput for an invalid
    value.
    """
    if num_classes < 1 or len(shape) != 3 or min(shape) < 1:
        raise InvalidInput(f"model {spec!r}: needs a class and a shape (C, H, W), got {num_classes} and {tuple(shape)}")
    build = _registered if is_registered(spec) or not names_code(spec) else _imported
    try:
        model = build(spec, num_classes, shape)
    except FairbenchError:
        raise
    except Exception as error:
        raise InvalidInput(f"model {spec!r}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"model {spec!r}: the function returned {type(model).__name__}, not a torch.nn.Module")
    return normalized(model, mean, std, channels=shape[0])


def normalized(
    network: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None, *, channels: int
) -> nn.Module:
    """Put normalisation in front of a network, or return the network if neither `mean` nor `std` is given."""
    check_normalisation(mean, std, channels=channels)
    if mean is None or std is None:
        return network
    return nn.Sequential(OrderedDict(normalize=Normalize(mean, std), network=network))


def check_normalisation(mean: Sequence[float] | None, std: Sequence[float] | None, *, channels: int) -> None:
    """Raise InvalidInput unless neither `mean` nor `std` is given, or both, finite, one a channel, and std positive."""
    if mean is None and std is None:
        return
    for name, values in (("mean", mean), ("std", std)):
        if values is None or len(values) != channels or not all(math.isfinite(value) for value in values):
            raise InvalidInput(f"{name} must be one number for each of the {channels} channels, got {values}")
    if std is not None and min(std) <= 0:
        raise InvalidInput(f"std must be positive, got {list(std)}")


def is_registered(spec: str) -> bool:
    """Tell whether a spec names a registered model rather than a callable of a module."""
    return spec.partition(":")[0] in models.names()


def builder_of(spec: str) -> Callable[..., Any]:
    """Return the function that builds the network of a spec; raises UnknownName and InvalidInput."""
    if is_registered(spec) or not names_code(spec):
        function: Callable[..., Any] = models.get(parse_call(spec).name)
        return function
    return import_callable("model", spec)  # type: ignore[no-any-return]


def _registered(spec: str, num_classes: int, shape: tuple[int, int, int]) -> Any:
    call, function = parse_call(spec), builder_of(spec)
    known = _parameters(function)[2:]
    named = {parameter.name: parameter for parameter in known if parameter.kind not in _GATHERING}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known):
        for key in call.arguments:
            if key not in named:
                raise UnknownName(f"argument of model {call.name!r}:", key, list(named))
    typed_ones = {key: value for key, value in call.arguments.items() if key in named}
    checked = typed(f"model {spec!r}", typed_ones, {key: (_type(named[key]), ...) for key in typed_ones})
    return function(num_classes, shape, **{**call.arguments, **checked})


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function, eval_str=True).parameters.values())
    except NameError:  # types that are imported for checkers only
        return list(inspect.signature(function).parameters.values())


def _type(parameter: inspect.Parameter) -> Any:
    annotation = parameter.annotation
    return Any if annotation is parameter.empty or isinstance(annotation, str) else annotation


def _imported(spec: str, num_classes: int, shape: tuple[int, int, int]) -> Any:
    function = builder_of(spec)
    parameters = inspect.signature(function).parameters
    accepts_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments: dict[str, Any] = {"shape": shape} if "shape" in parameters else {}
    if "num_classes" in parameters or accepts_any:
        arguments["num_classes"] = num_classes
    return function(**arguments)
