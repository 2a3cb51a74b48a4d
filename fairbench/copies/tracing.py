"""Tracing a network while other threads use networks: torch.fx patches every module of the process while it traces."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import fx, nn

__all__ = ["traced"]

# A tracer restores what it found: of two at once, the second would restore what the first had put there.
_lock = threading.Lock()


def traced(network: nn.Module) -> fx.GraphModule:
    """Trace a network as `torch.fx.symbolic_trace` does; modules that other threads call meanwhile run as they are."""
    with _lock:
        tracer = _Tracer()
        return fx.GraphModule(tracer.root, tracer.trace(network), type(network).__name__)


class _Tracer(fx.Tracer):
    """A tracer that sees the calls of its own thread alone."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Record a call of this thread, and let another thread's run."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Record the use of a parameter by this thread, and give another thread the parameter."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)
