"""The plan of a tuning: the trials of every method and an estimate of their time; nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fairbench.report.text.width import beside
from fairbench.run.forecast import Forecast, forecast, lanes, span, whole_training
from fairbench.run.launch.progress import duration
from fairbench.run.tuning.files import TuningFiles
from fairbench.run.tuning.method_search import Search
from fairbench.run.tuning.stages import open_stages

__all__ = ["render_plan"]


@dataclass(frozen=True)
class _Line:
    """One search: its number of trials, and the estimates of those that are not finished."""

    label: str
    trials: int
    left: Sequence[Forecast]

    def text(self, width: int) -> str:
        """A row of the plan."""
        seconds = [item.seconds for item in self.left if item.seconds is not None]
        known = len(seconds) == len(self.left)
        time = "" if not self.left else f"about {duration(sum(seconds))} in turn" if known else "no estimate"
        done = self.trials - len(self.left)
        return f"{self.label:<{width}}  {done} of {self.trials} trials finished  {time}".rstrip()


def render_plan(name: str, *, jobs: int, launcher: str = "local", **choice: Any) -> str:
    """Return the plan of a tuning as text: the trials of every method, and the estimated time of those that are left.

    `choice` holds the keyword arguments of `open_stages`. The time of a trial is that of its training by the costs
    shipped with the package, scaled to this machine; scoring the held-out images is not included. `jobs` runs are side
    by side, on this machine no more than it has cores. Raises what `open_stages` raises.
    """
    stages = open_stages(name, **choice)
    files = TuningFiles(stages.suite, stages.root)
    lines = [_line(search, files) for search in (*stages.prerequisites(), *stages.students())]
    frozen = forecast(stages.frozen(), files.results)
    width = max(map(len, [line.label for line in lines]), default=0)
    text = [line.text(width) for line in lines]
    if frozen:
        models = ", ".join(f"{item.spec.label} ({item.state})" for item in frozen)
        text += ["", beside("trained with their chosen settings: ", models)]
    left = [item for line in lines for item in line.left]
    total = sum(line.trials for line in lines)
    text += ["", f"{stages.suite.name} v{stages.suite.version}: {len(left)} of {total} trials to do, {jobs} at a time"]
    unknown = sum(item.seconds is None for item in left)
    if len(left) > unknown:
        seconds = span([*frozen, *left], lanes(jobs, launcher))
        text.append(beside("", f"about {duration(seconds)} (shipped costs of these methods, scaled to this machine)"))
    if unknown:
        missing = f"no estimate for {unknown} of the trials: no committed run has this network and dataset"
        text.append(beside("", missing))
    return "\n".join(text)


def _line(search: Search, files: TuningFiles) -> _Line:
    """The trials of a search; one that the scores do not define yet takes as long as a whole training."""
    pending = search.harvest(files.results, files.rows)
    left, later = forecast(pending, files.results), search.tuning.trials - len(search.rows) - len(pending)
    further = [Forecast(search.base, "to do", whole_training(search.base))] * later
    return _Line(search.base.label, search.tuning.trials, [*left, *further])
