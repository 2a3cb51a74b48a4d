"""Tracing a network with torch.fx while other threads use networks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from threading import Lock, get_ident
from types import CodeType
from typing import Any

import torch
from torch import fx, nn

__all__ = ["has_hooks", "traced"]

# torch.fx replaces `Module.__call__` and `Module.__getattr__` of the whole process while it traces. Two traces at once
# would restore each other's replacements.
_LOCK = Lock()
# Modules whose forward checks the type of its input, which is no tensor while torch.fx traces.
_LEAVES = ("torchvision.transforms",)


class _Tracer(fx.Tracer):
    """Records the operations of the tracing thread; modules that other threads call meanwhile run normally."""

    # Values computed from a buffer are then computed anew when the buffer has changed.
    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self._thread = get_ident()
        # A trace of an autograd function's forward would lose the function's own backward.
        self._forwards = set(_codes_of_forwards(torch.autograd.Function))

    def create_proxy(self, *args: Any, **kwargs: Any) -> fx.Proxy:
        """Record an operation; raises TraceError if its gradient is not that of the operation itself."""
        if not torch.is_grad_enabled():
            raise fx.proxy.TraceError("the network switches gradients off in its forward")
        if not self._forwards.isdisjoint(_callers()):
            raise fx.proxy.TraceError("the network has an autograd function with a backward of its own")
        return super().create_proxy(*args, **kwargs)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith(_LEAVES) or super().is_leaf_module(m, module_qualified_name)


def traced(model: nn.Module) -> fx.GraphModule:
    """Trace a copy of a model in eval mode whose weights need no gradients.

    Raises whatever torch.fx raises for a model that cannot be traced. Raises TraceError where a trace would change the
    result: with `torch.no_grad` or a `torch.autograd.Function` in the forward (straight-through estimators), whose
    gradient would change; with an assignment to a buffer, which would hold a symbol in place of a number; with a hook
    on the model's input. Any thread may call this and use models at any time.
    """
    if model._forward_pre_hooks:  # torch.fx calls the forward of the outermost module without its hooks
        raise fx.proxy.TraceError("the network has a hook that may change its images")
    copy = deepcopy(model).eval().requires_grad_(False)
    with _LOCK, torch.enable_grad():
        tracer = _Tracer()
        graph = tracer.trace(copy)
    if any(isinstance(buffer, fx.Proxy) for module in copy.modules() for buffer in module._buffers.values()):
        raise fx.proxy.TraceError("the network assigns to a buffer in its forward")
    root: nn.Module | Mapping[str, Any] = tracer.root
    return fx.GraphModule(root, graph)  # type: ignore[arg-type]


def has_hooks(module: nn.Module) -> bool:
    """Whether calling a module runs hooks, which may change what it computes or its gradient."""
    kinds = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(kinds)


def _callers() -> Iterator[CodeType]:
    """Yield the code objects of this thread's stack, the innermost first."""
    frame = sys._getframe(1)
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back  # type: ignore[assignment]


def _codes_of_forwards(function: type[torch.autograd.Function]) -> Iterator[CodeType]:
    """Yield the code objects of `forward` of all subclasses of an autograd function."""
    for derived in function.__subclasses__():
        code = getattr(derived.forward, "__code__", None)
        if code is not None and derived.forward is not torch.autograd.Function.forward:
            yield code
        yield from _codes_of_forwards(derived)
