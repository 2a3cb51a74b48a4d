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
from fairbench.plugins.calls import import_callable, names_code, parse_call
from fairbench.registry import models

__all__ = ["Normalize", "build_model", "builder_of", "is_registered", "normalized"]


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
    function gets the number of classes, the shape and the arguments; a callable of a module gets those of the keywords
    `num_classes` and `shape` that it takes. With `mean` and `std` (C numbers each) the first layer normalises. Raises
    UnknownName for an unknown name or argument, InvalidInput for an invalid value.
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
    if mean is None and std is None:
        return network
    for name, values in (("mean", mean), ("std", std)):
        if values is None or len(values) != channels or not all(math.isfinite(value) for value in values):
            raise InvalidInput(f"{name} must be one number for each of the {channels} channels, got {values}")
    assert mean is not None
    assert std is not None
    if min(std) <= 0:
        raise InvalidInput(f"std must be positive, got {list(std)}")
    return nn.Sequential(OrderedDict(normalize=Normalize(mean, std), network=network))


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
    known = list(inspect.signature(function).parameters.values())[2:]
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known):
        for key in call.arguments:
            if key not in [parameter.name for parameter in known]:
                raise UnknownName(f"argument of model {call.name!r}:", key, [parameter.name for parameter in known])
    return function(num_classes, shape, **call.arguments)


def _imported(spec: str, num_classes: int, shape: tuple[int, int, int]) -> Any:
    function = builder_of(spec)
    parameters = inspect.signature(function).parameters
    accepts_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments: dict[str, Any] = {"shape": shape} if "shape" in parameters else {}
    if "num_classes" in parameters or accepts_any:
        arguments["num_classes"] = num_classes
    return function(**arguments)
