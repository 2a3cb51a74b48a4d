"""Tracing a network with torch.fx while other threads use networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from threading import Lock, get_ident
from typing import Any

from torch import fx, nn

__all__ = ["traced"]

# torch.fx replaces `Module.__call__` and `Module.__getattr__` of the whole process while it traces. Two traces at once
# would restore each other's replacements.
_LOCK = Lock()
# Their forward asks for the type of its input, which is no tensor while torch.fx traces.
_LEAVES = ("torchvision.transforms",)


class _Tracer(fx.Tracer):
    """Records what the tracing thread does; modules that other threads call meanwhile run as ever."""

    # What is computed from a buffer follows the buffer when it changes.
    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self._thread = get_ident()

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
    """Trace a copy of a model in eval mode, without gradients for its weights.

    What cannot be traced raises what torch.fx raises. Any thread may call this, and may use models, at any time.
    """
    copy = deepcopy(model).eval().requires_grad_(False)
    with _LOCK:
        tracer = _Tracer()
        graph = tracer.trace(copy)
    root: nn.Module | Mapping[str, Any] = tracer.root
    return fx.GraphModule(root, graph)  # type: ignore[arg-type]
