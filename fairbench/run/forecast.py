"""The state of every run of a plan, and an estimate of the seconds of each stage that is left."""

from __future__ import annotations

import heapq
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fairbench.errors import FairbenchError
from fairbench.files import read_json
from fairbench.report.text.width import beside
from fairbench.results.folder import RunFolder
from fairbench.run.costs import shipped
from fairbench.run.launch.progress import duration
from fairbench.run.pipeline import is_done
from fairbench.suites.spec import RunSpec

__all__ = ["Forecast", "forecast", "lanes", "render_forecasts", "span", "summary", "whole_training"]


@dataclass(frozen=True)
class Forecast:
    """The state of one run of a plan, and the estimated seconds of the stages that are left.

    `stages` has the names that the pipeline reports ("train", "evaluate best/pgd-20"); None stands for a stage without
    a comparable measurement.
    """

    spec: RunSpec
    state: str
    stages: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """Seconds left, None if a stage has no estimate."""
        known = [seconds for seconds in self.stages.values() if seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None


def forecast(specs: Sequence[RunSpec], results: Path) -> list[Forecast]:
    """Return the state and the remaining time of every run of a plan; nothing is run and nothing is written.

    Costs are those shipped with the package for the network, the dataset and its training images, scaled to this
    machine (`fairbench.run.costs`). A method that was not measured gets the median of those that were.
    """
    found = []
    for spec in specs:
        folder = RunFolder(results / spec.folder)
        epoch, missing = _left(spec, folder)
        left = spec.recipe.epochs - epoch
        state = "done" if not missing and not left else "trained" if not left else "to do"
        if 0 < epoch < spec.recipe.epochs:
            state = f"epoch {epoch} of {spec.recipe.epochs}"
        found.append(Forecast(spec, state, _stages(spec, left, missing)))
    return found


def lanes(jobs: int, launcher: str = "local") -> int:
    """How many of `jobs` runs at a time the estimates count: on this machine no more than it has cores.

    The costs are processor seconds of one core. A cluster's cores are not known here.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return jobs if launcher != "local" else min(jobs, available or jobs)


def span(forecasts: Sequence[Forecast], jobs: int) -> float:
    """Seconds from start to end with `jobs` runs side by side, each started in order once its prerequisites are done.

    A run without an estimate counts as 0 seconds.
    """
    ends: dict[Path, float] = {}
    free = [0.0] * jobs
    for item in forecasts:
        needed = [ends.get(run.folder, 0.0) for run in item.spec.prerequisites if isinstance(run, RunSpec)]
        start = max(heapq.heappop(free), *needed, 0.0)
        ends[item.spec.folder] = start + (item.seconds or 0.0)
        heapq.heappush(free, ends[item.spec.folder])
    return max(free)


def render_forecasts(forecasts: Sequence[Forecast], jobs: int, launcher: str = "local") -> str:
    """A table with a row for each run in the order of execution, and the summary below it."""
    names = [item.spec.title for item in forecasts]
    width = max(map(len, names), default=0)
    states = max((len(item.state) for item in forecasts), default=0)
    lines = [
        f"{number:>3}  {name:<{width}}  {item.state:<{states}}  {_left_of(item)}".rstrip()
        for number, (name, item) in enumerate(zip(names, forecasts, strict=True), 1)
    ]
    return "\n".join([*lines, "", *(beside("", line) for line in summary(forecasts, jobs, launcher))])


def summary(forecasts: Sequence[Forecast], jobs: int, launcher: str = "local") -> list[str]:
    """Describe a plan in a few lines: its runs, and about how long they take."""
    if not forecasts:
        return []
    first, left = forecasts[-1].spec, [item for item in forecasts if item.state != "done"]
    labels = list(dict.fromkeys(item.spec.label for item in forecasts))
    shown = ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
    seeds = sorted({item.spec.seed for item in forecasts if item.spec.role == "student"})
    quick = " (quick: a smoke test, not ranked)" if first.quick else ""
    kind = "run" if first.trial is None else "trial"
    runs = f"{len(forecasts)} {kind}{'s' if len(forecasts) > 1 else ''}"
    lines = [
        f"{first.suite} v{first.version}{quick}: {runs} of {shown}; seed{'s' if len(seeds) > 1 else ''} "
        f"{', '.join(map(str, seeds))}; {len(forecasts) - len(left)} done, {jobs} at a time"
    ]
    unknown = sum(item.seconds is None for item in left)
    if left and unknown < len(left):
        seconds = span(left, lanes(jobs, launcher))
        lines.append(f"about {duration(seconds)} (shipped costs of these methods, scaled to this machine)")
    if unknown:
        lines.append(f"no estimate for {unknown} of the runs: no committed run has this network, dataset and attacks")
    return lines


def _training_seconds(spec: RunSpec, epochs: int) -> float | None:
    """Estimated seconds of a number of epochs of a run's training, None without a comparable measurement."""
    costs = shipped(spec)
    seconds = None if costs is None else costs.epoch(spec.label)
    return None if seconds is None else seconds * epochs


def whole_training(spec: RunSpec) -> dict[str, float | None]:
    """Seconds of the stages of a run that only trains, from the start of its process."""
    costs = shipped(spec)
    return {"start": 0.0 if costs is None else costs.start, "train": _training_seconds(spec, spec.recipe.epochs)}


def _left_of(item: Forecast) -> str:
    if item.state == "done":
        return ""
    return "no estimate" if item.seconds is None else f"about {duration(item.seconds)}"


def _stages(spec: RunSpec, epochs: int, missing: Sequence[str]) -> dict[str, float | None]:
    """Seconds of each remaining stage of a run, by the stage's name."""
    if not epochs and not missing:
        return {}
    costs = shipped(spec)
    stages: dict[str, float | None] = {"start": 0.0 if costs is None else costs.start}
    if epochs:
        stages["train"] = _training_seconds(spec, epochs)
    for key in missing:
        seconds = None if costs is None else costs.attack(key.partition("/")[2], spec.data.test_per_class)
        stages[f"evaluate {key}"] = seconds
    return stages


def _left(spec: RunSpec, folder: RunFolder) -> tuple[int, list[str]]:
    """Epochs already trained, and the `checkpoint/attack` keys without verdicts; an empty list for a finished run."""
    asked = [f"{kind}/{text}" for kind in ("best", "last") for text in getattr(spec.evaluation, kind)]
    asked = [] if spec.until == "trained" else asked
    try:
        if is_done(spec, folder):
            return spec.recipe.epochs, []
        record = folder.read()
        if record.get("status") in {"trained", "complete"}:
            known = folder.read_verdicts().keys() & record.get("evaluations", {}).keys()
            return spec.recipe.epochs, [key for key in asked if key not in known] or asked[:1]
        if folder.resume.exists():
            return int(read_json(folder.status)["epoch"]), asked
    except (FairbenchError, ValueError, KeyError, TypeError):
        pass  # a damaged run starts again from the beginning
    return spec.recipe.epochs if spec.checkpoint is not None else 0, asked
