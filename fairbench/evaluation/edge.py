"""The interface between attacks and a model of any kind: float32 images in, checked float32 logits out."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from fairbench.errors import FairbenchError, InvalidInput
from fairbench.evaluation.victim import callers_dtype, default_dtype

__all__ = ["Edge", "as_module", "at_edge", "logits"]


class Edge(nn.Module):
    """A network behind the interface that attacks rely on: float32 images in, float32 logits out, images unchanged.

    The network gets a contiguous copy of the images with type `dtype`, and runs with the caller's default dtype. Other
    attributes of the network (layers, methods) are available here too. Edges of one network compare equal, so that the
    sanity checks find the copy that the evaluation made.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype, self.default_dtype = network, dtype, callers_dtype.get()
        self.training = False

    def forward(self, x: Tensor) -> Any:
        """Return the logits of x float32 [B,C,H,W] in float32; an output that is no tensor is returned unchanged."""
        with default_dtype(self.default_dtype):
            found = self.network(_copied(x, self.dtype))
        if not hasattr(found, "float"):
            return found
        # A network that enables gradients itself returns a graph even under no_grad.
        return found.float() if torch.is_grad_enabled() else found.detach().float()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edge) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[int, torch.dtype, torch.dtype]:
        return id(self.network), self.dtype, self.default_dtype

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the network, as an attack written for it expects."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)


def at_edge(model: nn.Module, x: Tensor) -> tuple[nn.Module, int]:
    """Probe a held model with images x float32 [B,C,H,W]; return the model for attacks and the number of classes.

    That is the model itself if it accepts float32 images, leaves them unchanged and returns float32 logits, else an
    `Edge`. A model that changes its images causes a warning. A model that rejects the images gets contiguous ones, as
    `x.view(len(x), -1)` needs, in the dtype of its weights if they all have one. Raises InvalidInput for a model that
    does not accept the images or returns no logits.
    """
    dtype, shown = torch.float32, x.clone()
    try:
        found = _look(model, shown)
    except InvalidInput:
        types = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
        if len(types) == 1:
            (dtype,) = types
        shown = _copied(x, dtype)
        if dtype == torch.float32 and shown.stride() == x.stride():  # torch calls any image of one channel contiguous
            raise
        found = _look(model, shown)
    changed = shown._version > 0 or not torch.equal(shown, x.to(dtype))
    if changed:
        warnings.warn("the model changes its input in place: it is given copies of the images", stacklevel=2)
    classes = _checked(found, x).shape[1]
    plain = dtype == found.dtype == callers_dtype.get() == torch.float32 and not found.requires_grad
    plain &= shown.stride() == x.stride()
    return (model if plain and not changed else Edge(model, dtype)), classes


def _copied(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype, copy=True, memory_format=torch.contiguous_format)


def as_module(model: object) -> nn.Module:
    """Return a module as it is, and any other callable from images to logits as a module.

    Modules that the callable refers to (as attributes, in its closure, or bound to it, also in a list, tuple or
    mapping there) are put into evaluation mode with it, and so are those that a module keeps in plain containers,
    where torch does not look. Raises InvalidInput for an object that cannot be called.
    """
    if isinstance(model, nn.Module):
        unregistered = _unregistered(model)
        return _Called(model, unregistered) if unregistered else model
    if isinstance(model, type):
        raise InvalidInput(f"the model is the class {model.__name__}; give an instance of it, with weights")
    if not callable(model):
        raise InvalidInput(f"a model is a torch.nn.Module, a callable or a name, not {type(model).__name__}")
    return _Called(model, _referred_to(model))


class _Called(nn.Module):
    """A callable, and the modules that it refers to."""

    def __init__(self, function: Callable[[Tensor], Any], parts: Iterable[nn.Module]) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def _referred_to(function: Any, depth: int = 2) -> list[nn.Module]:
    """Return the modules among an object's attributes, its bound instance, and the variables that its code reads."""
    parts = [getattr(function, "__self__", None), *getattr(function, "__dict__", {}).values()]
    if isinstance(function, functools.partial):
        parts += [function.func, *function.args, *function.keywords.values()]
    parts = _flat(parts)
    values = list(parts)
    if inspect.isfunction(function):
        with suppress(ValueError):  # a closure variable without a value
            scope = inspect.getclosurevars(function)
            values += _flat([*scope.nonlocals.values(), *scope.globals.values()])
    found = [value for value in values if isinstance(value, nn.Module)]
    for part in parts if depth else ():
        if callable(part) and not isinstance(part, type | nn.Module):
            found += _referred_to(part, depth - 1)
    return list(dict.fromkeys(found))


def _unregistered(model: nn.Module) -> list[nn.Module]:
    """Return the modules in plain lists, tuples and mappings of a network, and their own parts, none of them twice."""
    known = list(model.modules())
    registered, seen = len(known), set(map(id, known))
    for module in known:  # grows
        for part in _flat(vars(module).values()):
            if isinstance(part, nn.Module) and id(part) not in seen:
                new = [each for each in part.modules() if id(each) not in seen]
                known += new
                seen.update(map(id, new))
    return known[registered:]


def _flat(values: Iterable[Any]) -> list[Any]:
    """Return the values, with those in a list, tuple or mapping in place of it."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, Mapping):
            with suppress(Exception):  # a stranger's mapping
                found += value.values()
        elif isinstance(value, list | tuple):
            found += value
        else:
            found.append(value)
    return found


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Return a model's logits [B,C] of images [B,...], C at least 2; raises InvalidInput for any other output.

    Raises InvalidInput too if logits are not finite, because NaN is no class, and if the model changes x.
    """
    before = None if x.is_inference() else x._version
    found = _look(model, x)
    if before is not None and x._version != before:
        raise InvalidInput("the model changes its input in place for some images only: its verdicts would be wrong")
    return _checked(found, x)


def _checked(found: Any, x: Tensor) -> Tensor:
    if not isinstance(found, Tensor):
        raise InvalidInput(f"the model returns a {type(found).__name__}; wrap it in a module that returns its logits")
    if found.is_complex() or found.layout is not torch.strided or found.is_quantized:
        raise InvalidInput(f"the model must return logits as plain real numbers, not {found.layout} {found.dtype}")
    if found.shape[:-1] != x.shape[:1] or found.shape[-1] < 2:
        raise InvalidInput(f"the model must return logits [N,C] with C at least 2, not {list(found.shape)}")
    if not found.float().isfinite().all():  # torch has no isfinite for float8
        raise InvalidInput("the model's logits are not finite: it has NaN or infinite weights, or overflows")
    return found.detach()


def _look(model: nn.Module, x: Tensor) -> Any:
    """Return a model's output for images of any type; raises InvalidInput for any exception of the model."""
    try:
        with torch.no_grad(), default_dtype(callers_dtype.get()):
            return model(x)
    except (FairbenchError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # errors of the user's model: shapes, guards of exported programs, assertions, ...
        shape, kind = "x".join(str(side) for side in x.shape[1:]), str(x.dtype).removeprefix("torch.")
        line = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise InvalidInput(f"the model cannot take {kind} images of {shape}: {line}") from error
