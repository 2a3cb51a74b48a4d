"""What a plan still costs: how far each run is, and the hours that finished runs like it were measured to take."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from fairbench.errors import FairbenchError
from fairbench.files import read_json
from fairbench.results.folder import RunFolder
from fairbench.run.pipeline import is_done
from fairbench.suites.spec import RunSpec

__all__ = ["Forecast", "forecast", "render", "span"]

COMPARABLE = ("batch_size", "attack_steps", "precision")


@dataclass(frozen=True)
class Forecast:
    """One run of a plan: how far it is, and how many seconds are left, None where no run like it was measured."""

    spec: RunSpec
    state: str
    seconds: float | None


def forecast(specs: Sequence[RunSpec], results: Path) -> list[Forecast]:
    """Look at every run of a plan in the order given; nothing is run and nothing written.

    Costs are those of finished runs below `results` and in the committed `./results`: training by method, model, data,
    device and recipe, per epoch; attacks by model, data and device.
    """
    measured = _Measured({spec.suite for spec in specs}, {results.resolve(), Path("results").resolve()})
    found = []
    for spec in specs:
        folder = RunFolder(results / spec.folder)
        epoch, missing = _left(spec, folder)
        state = "done" if not missing else "trained" if epoch == spec.recipe.epochs else "to do"
        if 0 < epoch < spec.recipe.epochs:
            state = f"epoch {epoch} of {spec.recipe.epochs}"
        parts = [measured.training(spec, spec.recipe.epochs - epoch), measured.evaluation(spec, missing)]
        seconds = None if None in parts else sum(part for part in parts if part is not None)
        found.append(Forecast(spec, state, seconds))
    return found


def span(forecasts: Sequence[Forecast], jobs: int) -> float:
    """Seconds from start to end with `jobs` runs side by side, each begun in order once what it needs is done.

    Runs without a measurement count as nothing.
    """
    ends: dict[Path, float] = {}
    free = [0.0] * jobs
    for item in forecasts:
        needed = [ends.get(given.folder, 0.0) for given in item.spec.prerequisites if isinstance(given, RunSpec)]
        start = max(heapq.heappop(free), *needed, 0.0)
        ends[item.spec.folder] = start + (item.seconds or 0.0)
        heapq.heappush(free, ends[item.spec.folder])
    return max(free)


def render(forecasts: Sequence[Forecast], jobs: int) -> str:
    """A table, a run a row in the order of execution, and what it comes to."""
    names = [f"{item.spec.label} seed {item.spec.seed}" for item in forecasts]
    width = max(map(len, names), default=0)
    states = max((len(item.state) for item in forecasts), default=0)
    lines = [
        f"{number:>3}  {name:<{width}}  {item.state:<{states}}  {_hours(item.seconds)}"
        for number, (name, item) in enumerate(zip(names, forecasts, strict=True), 1)
    ]
    done = sum(item.state == "done" for item in forecasts)
    unknown = sum(item.seconds is None for item in forecasts)
    work = sum(item.seconds or 0.0 for item in forecasts)
    lines += [
        "",
        f"{len(forecasts)} runs, {done} of them done; {_hours(work)} of work measured, "
        f"{_hours(span(forecasts, jobs))} with {jobs} side by side",
    ]
    if unknown:
        lines.append(f"{unknown} not measured: no run of that method has finished with this model, data and recipe")
    return "\n".join(lines)


def _hours(seconds: float | None) -> str:
    return "not measured" if seconds is None else f"{seconds / 3600:.3f} h"


class _Measured:
    """What finished runs took: a training per epoch, and an attack; medians over the runs that are alike."""

    def __init__(self, suites: set[str], roots: set[Path]) -> None:
        epochs: dict[tuple[Any, ...], list[float]] = {}
        attacks: dict[tuple[Any, ...], list[float]] = {}
        for spec, record in _finished(suites, roots):
            seconds = record["cost"]["train_seconds"] / spec.recipe.epochs
            epochs.setdefault(_trained_like(spec), []).append(seconds)
            for key, cost in record["evaluations"].items():
                attacks.setdefault(_attacked_like(spec, key), []).append(cost["seconds"])
        self._epoch = {key: median(found) for key, found in epochs.items()}
        self._attack = {key: median(found) for key, found in attacks.items()}

    def training(self, spec: RunSpec, epochs: int) -> float | None:
        """Seconds of so many epochs, None if none were measured."""
        seconds = self._epoch.get(_trained_like(spec))
        return 0.0 if epochs == 0 else None if seconds is None else seconds * epochs

    def evaluation(self, spec: RunSpec, keys: Sequence[str]) -> float | None:
        """Seconds of the attacks of `checkpoint/attack` keys, None if one was not measured."""
        costs = [self._attack.get(_attacked_like(spec, key)) for key in keys]
        return None if None in costs else sum((cost for cost in costs if cost is not None), 0.0)


def _trained_like(spec: RunSpec) -> tuple[Any, ...]:
    return (
        *(spec.model, spec.data_hash, spec.environment.device, spec.method.base, spec.method.policies),
        *(getattr(spec.recipe, name) for name in COMPARABLE),
    )


def _attacked_like(spec: RunSpec, key: str) -> tuple[Any, ...]:
    return spec.model, spec.data_hash, spec.environment.device, spec.data.test_per_class, key.partition("/")[2]


def _finished(suites: set[str], roots: set[Path]) -> Iterator[tuple[RunSpec, dict[str, Any]]]:
    """Complete runs; one that cannot be read measures nothing."""
    for root in sorted(roots):
        for suite in sorted(suites):
            for path in sorted((root / suite).glob("*/*/run.json")):
                try:
                    record = RunFolder(path.parent).read()
                    if record.get("status") == "complete":
                        yield RunSpec.model_validate(record["spec"]), record
                except (FairbenchError, ValueError, KeyError):
                    continue


def _left(spec: RunSpec, folder: RunFolder) -> tuple[int, list[str]]:
    """Epochs already trained, and the `checkpoint/attack` keys that have no verdicts yet; none when it is done."""
    asked = [f"{kind}/{text}" for kind in ("best", "last") for text in getattr(spec.evaluation, kind)]
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
        pass  # what is damaged is made again, all of it
    return spec.recipe.epochs if spec.checkpoint is not None else 0, asked
