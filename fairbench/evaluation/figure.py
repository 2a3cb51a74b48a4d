"""The figures of a report: numbers under the union of all attacks, which can be called for those of one attack."""

from __future__ import annotations

from collections.abc import Callable

from fairbench.evaluation.verdicts import UNION

__all__ = ["ClassFigure", "Figure"]


class Figure(float):
    """A figure under the union of all attacks; a call with `attack=` returns the same figure under that attack."""

    _under: Callable[[str], float]

    def __call__(self, attack: str = UNION) -> float:
        """Return the figure under one attack; raises UnknownName."""
        return self._under(attack)


class ClassFigure(int):
    """A class number under the union of all attacks; a call with `attack=` returns the one under that attack."""

    _under: Callable[[str], int]

    def __call__(self, attack: str = UNION) -> int:
        """Return the class number under one attack; raises UnknownName."""
        return self._under(attack)
