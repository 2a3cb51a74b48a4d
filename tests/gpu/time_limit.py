"""The time on a device: how much of it is left, in seconds of a clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gpu.process import Stop

__all__ = ["TimeLimit"]


@dataclass(frozen=True)
class TimeLimit:
    """The time until `end`, a reading of `clock`; the last `reserved` seconds of it are kept for packing.

    Nothing is left once `stop` was asked for.
    """

    end: float
    reserved: float = 0.0
    clock: Callable[[], float] = time.time
    stop: Stop = field(default_factory=Stop)

    @classmethod
    def of(cls, minutes: float, *, start: float, reserved: float, stop: Stop) -> TimeLimit:
        """A limit of some minutes from `start`, in seconds since the epoch."""
        return cls(start + 60 * minutes, reserved, stop=stop)

    def left(self) -> float:
        """Seconds for work; negative once they are over."""
        return -1.0 if self.stop.asked else self.end - self.reserved - self.clock()
