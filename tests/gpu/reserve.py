"""The seconds that the runs of tuned methods will take, learned from trials and from finished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

__all__ = ["START", "Costs", "fitting"]

START = 30.0  # seconds of a command before its first run trains: imports, data, compilation


@dataclass(frozen=True)
class Costs:
    """Measured seconds: of trainings in trials, by method, and of whole evaluations.

    A trial trains as long as a run. Both were measured beside `jobs` others, as the runs will be.
    """

    jobs: int
    trials: Mapping[str, Sequence[float]] = field(default_factory=dict)
    evaluations: Sequence[float] = ()

    def run(self, method: str) -> float:
        """Seconds of one run: the median training of the method's trials, or of all, and the median evaluation.

        Before any evaluation was measured, it counts as long as the training. Without a trial nothing is known: 0.
        """
        every = [seconds for own in self.trials.values() for seconds in own]
        train = median(self.trials.get(method) or every or [0.0])
        return train + (median(self.evaluations) if self.evaluations else train)

    def span(self, methods: Sequence[str], seeds: int) -> float:
        """Seconds from start to end of the runs of some methods, `jobs` side by side; 0 without a method."""
        each = [self.run(method) for method in methods for _ in range(seeds)]
        return START + max(max(each), sum(each) / self.jobs) if each else 0.0


def fitting(methods: Sequence[str], seeds: int, costs: Costs, seconds: float) -> list[str]:
    """The first methods whose runs fit into some seconds; at least one, because an unfinished run can be resumed."""
    count = max((n for n in range(1, len(methods) + 1) if costs.span(methods[:n], seeds) <= seconds), default=1)
    return list(methods[:count])
