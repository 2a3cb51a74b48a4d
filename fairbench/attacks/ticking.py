"""Progress inside a batch: attacks report the share of their steps done, and nested attacks a share of their part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["heard", "part", "tick"]

Listener = Callable[[float], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def heard(listener: Listener | None) -> Iterator[None]:
    """Pass the reports of attacks in this context, shares from 0 to 1, to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def part(start: float, stop: float) -> Iterator[None]:
    """Map the reports of the block to the range from `start` to `stop` of the whole."""
    outer = _listener.get()
    with heard(None if outer is None else lambda share: outer(start + (stop - start) * share)):
        yield


def tick(share: float) -> None:
    """Report the completed share of the current attack, or of its current part."""
    listener = _listener.get()
    if listener is not None:
        listener(share)
