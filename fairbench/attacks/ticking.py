"""How far an attack on a batch is: loops report a share, and nested loops a share of their part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["heard", "part", "tick"]

Listener = Callable[[float], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def heard(listener: Listener | None) -> Iterator[None]:
    """Pass what attacks report in this context, shares from 0 to 1, to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def part(start: float, stop: float) -> Iterator[None]:
    """Make the reports inside count from `start` to `stop` of the whole."""
    outer = _listener.get()
    with heard(None if outer is None else lambda share: outer(start + (stop - start) * share)):
        yield


def tick(share: float) -> None:
    """Report that a share of the current attack, or of the current part of it, is done."""
    listener = _listener.get()
    if listener is not None:
        listener(share)
