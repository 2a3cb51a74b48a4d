"""What a plan still costs: how far each run is, and the hours that finished runs like it were measured to take."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from fairbench.config import RunSpec
from fairbench.errors import FairbenchError
from fairbench.files import read_json
from fairbench.pipeline import is_done
from fairbench.results import RunFolder

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
    measured = list(_finished({spec.suite for spec in specs}, {results.resolve(), Path("results").resolve()}))
    found = []
    for spec in specs:
        folder = RunFolder(results / spec.folder)
        epoch, missing = _left(spec, folder)
        state = "done" if not missing else "trained" if epoch == spec.recipe.epochs else "to do"
        if 0 < epoch < spec.recipe.epochs:
            state = f"epoch {epoch} of {spec.recipe.epochs}"
        parts = [_training(spec, measured, spec.recipe.epochs - epoch), _evaluation(spec, measured, missing)]
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


def _finished(suites: set[str], roots: set[Path]) -> Iterator[dict[str, Any]]:
    """Records of complete runs; one that cannot be read measures nothing."""
    for root in sorted(roots):
        for suite in sorted(suites):
            for path in sorted((root / suite).glob("*/*/run.json")):
                try:
                    record = RunFolder(path.parent).read()
                    if record.get("status") == "complete":
                        RunSpec.model_validate(record["spec"])
                        yield record
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
    return 0, asked


def _training(spec: RunSpec, measured: Sequence[dict[str, Any]], epochs: int) -> float | None:
    if epochs == 0:
        return 0.0
    method = (spec.method.base, spec.method.policies)
    costs = [
        record["cost"]["train_seconds"] / record["spec"]["recipe"]["epochs"]
        for record in measured
        if _alike(spec, record)
        and (record["spec"]["method"]["base"], tuple(record["spec"]["method"]["policies"])) == method
        and all(record["spec"]["recipe"][name] == getattr(spec.recipe, name) for name in COMPARABLE)
    ]
    return median(costs) * epochs if costs else None


def _evaluation(spec: RunSpec, measured: Sequence[dict[str, Any]], keys: Sequence[str]) -> float | None:
    total = 0.0
    for key in keys:
        attack = key.partition("/")[2]
        costs = [
            cost["seconds"]
            for record in measured
            if _alike(spec, record) and record["spec"]["data"]["test_per_class"] == spec.data.test_per_class
            for other, cost in record["evaluations"].items()
            if other.partition("/")[2] == attack
        ]
        if not costs:
            return None
        total += median(costs)
    return total


def _alike(spec: RunSpec, record: dict[str, Any]) -> bool:
    other = record["spec"]
    return bool(
        other["model"] == spec.model
        and other["data_hash"] == spec.data_hash
        and other["environment"]["device"] == spec.environment.device
    )
