"""The model under attack: in evaluation mode and float32 during the evaluation, and restored afterwards."""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fairbench.attacks.gradient import frozen
from fairbench.errors import FairbenchError, InvalidInput

__all__ = ["Edge", "as_module", "at_edge", "count_classes", "held", "logits"]

# Modes, precision and the code of pyautoattack are global: one thread at a time holds a model.
_lock = threading.RLock()
# The default dtype of the caller's code, while attacks run with float32.
_default_dtype: ContextVar[torch.dtype] = ContextVar("default_dtype", default=torch.float32)


@contextmanager
def held(model: nn.Module, device: str | torch.device | None = None) -> Iterator[torch.device]:
    """Move a model to a device, in eval mode, frozen and in full precision, and yield the device; None leaves it in
    place.

    On exit the model is back on its device, and its modes, gradients and buffers are restored. Threads wait for each
    other. Raises InvalidInput for an unavailable device, and for a model without weights or with weights on several
    devices.
    """
    with (
        _lock,
        torch.inference_mode(False),
        _placed(model, device) as where,
        _same_buffers(model),
        frozen(model),
        _full_precision(where),
        _float32_by_default(),
    ):
        yield where


class Edge(nn.Module):
    """A network behind the interface that attacks rely on: float32 images in, float32 logits out, images unchanged.

    The network gets a copy of the images with type `dtype`, and runs with the caller's default dtype. Other attributes
    of the network (layers, methods) are available here too. Edges of one network compare equal, so that the sanity
    checks find the copy that the evaluation made.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype, self.default_dtype = network, dtype, _default_dtype.get()
        self.training = False

    def forward(self, x: Tensor) -> Any:
        """Return the logits of x float32 [B,C,H,W] in float32; an output that is no tensor is returned unchanged."""
        with _default(self.default_dtype):
            found = self.network(x.clone().to(self.dtype))
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
    """Probe a held model with a few images x float32 [B,C,H,W]; return the model for attacks, and the number of
    classes.

    That is the model itself if it accepts float32 images, leaves them unchanged and returns float32 logits, else an
    `Edge`. A model that changes its images causes a warning. A model whose weights all have one other dtype gets its
    images in that dtype. Raises InvalidInput for a model that does not accept the images or returns no logits.
    """
    dtype, shown = torch.float32, x.clone()
    try:
        found = _look(model, shown)
    except InvalidInput:
        types = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
        if len(types) != 1 or types == {torch.float32}:
            raise
        (dtype,) = types
        shown = x.to(dtype)
        found = _look(model, shown)
    changed = shown._version > 0 or not torch.equal(shown, x.to(dtype))
    if changed:
        warnings.warn("the model changes its input in place: it is given copies of the images", stacklevel=2)
    classes = _checked(found, x).shape[1]
    plain = dtype == found.dtype == _default_dtype.get() == torch.float32 and not found.requires_grad
    return (model if plain and not changed else Edge(model, dtype)), classes


def as_module(model: object) -> nn.Module:
    """Return a module as it is, and any other callable from images to logits as a module.

    Modules that the callable refers to (as attributes, in its closure, or bound to it) are put into evaluation mode
    with it. Raises InvalidInput for an object that cannot be called.
    """
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, type):
        raise InvalidInput(f"the model is the class {model.__name__}; give an instance of it, with weights")
    if not callable(model):
        raise InvalidInput(f"a model is a torch.nn.Module, a callable or a name, not {type(model).__name__}")
    return _Called(model)


class _Called(nn.Module):
    """A callable, and the modules that it refers to."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(_referred_to(function))

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def _referred_to(function: Any, depth: int = 2) -> list[nn.Module]:
    """Return the modules among an object's attributes, its bound instance, and the variables that its code reads."""
    parts = [getattr(function, "__self__", None), *getattr(function, "__dict__", {}).values()]
    if isinstance(function, functools.partial):
        parts += [function.func, *function.args, *function.keywords.values()]
    values = list(parts)
    if inspect.isfunction(function):
        with suppress(ValueError):  # a closure variable without a value
            scope = inspect.getclosurevars(function)
            values += [*scope.nonlocals.values(), *scope.globals.values()]
    found = [value for value in values if isinstance(value, nn.Module)]
    for part in parts if depth else ():
        if callable(part) and not isinstance(part, type | nn.Module):
            found += _referred_to(part, depth - 1)
    return list(dict.fromkeys(found))


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Return a model's logits [B,C] of images [B,...], C at least 2; raises InvalidInput for any other output.

    Raises InvalidInput too if logits are not finite, because NaN is no class, and if the model changes x.
    """
    before = None if x.is_inference() else x._version
    found = _look(model, x)
    if before is not None and x._version != before:
        raise InvalidInput("the model changes its input in place for some images only: no image can be trusted")
    return _checked(found, x)


def count_classes(model: nn.Module, x: Tensor) -> int:
    """Return the number of logits, from a forward pass of some images; raises InvalidInput if images and model do not
    fit.
    """
    return at_edge(model, x)[1]


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
        with torch.no_grad(), _default(_default_dtype.get()):
            return model(x)
    except (FairbenchError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # errors of the user's model: shapes, guards of exported programs, assertions, ...
        shape, kind = "x".join(str(side) for side in x.shape[1:]), str(x.dtype).removeprefix("torch.")
        line = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise InvalidInput(f"the model cannot take {kind} images of {shape}: {line}") from error


@contextmanager
def _placed(model: nn.Module, device: str | torch.device | None) -> Iterator[torch.device]:
    if any(is_lazy(tensor) for tensor in [*model.parameters(), *model.buffers()]):
        raise InvalidInput("the model has lazy layers without weights: show it an image, and load its weights")
    homes = list(dict.fromkeys(str(tensor.device) for tensor in [*model.parameters(), *model.buffers()]))
    if "meta" in homes:
        raise InvalidInput("the model has no weights: it is on the meta device")
    if device is None:
        yield torch.device(homes[0]) if homes else torch.device("cpu")
        return
    if len(homes) > 1:
        raise InvalidInput(f"the model is spread over {', '.join(homes)} and cannot be moved: leave out device")
    try:
        where = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        raise InvalidInput(f"device {str(device)!r}: {str(error).splitlines()[0]}") from None
    try:
        model.to(where)
        yield where
    finally:
        if homes:
            model.to(homes[0])


@contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    """Restore buffers that a forward pass in eval mode should not change, such as counters and running averages."""
    before = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in before:
            if not torch.equal(buffer, value):
                buffer.copy_(value)
            if getattr(module, name) is not buffer and not isinstance(module, torch.jit.ScriptModule):
                module._buffers[name] = buffer  # a scripted module keeps the tensor, and returns other objects for it


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Disable implicit precision below float32: autocast, and TF32 and bfloat16 inside matrix products."""
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    settings = [cudnn.conv, cudnn.rnn, backends.cuda.matmul, mkldnn.conv, mkldnn.matmul]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


@contextmanager
def _float32_by_default() -> Iterator[None]:
    """Let attacks create float32 numbers, whatever the caller's default dtype is."""
    callers = torch.get_default_dtype()  # float32 inside another `held`
    token = _default_dtype.set(_default_dtype.get() if callers == torch.float32 else callers)
    try:
        with _default(torch.float32):
            yield
    finally:
        _default_dtype.reset(token)


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    if before == dtype:
        yield
        return
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
