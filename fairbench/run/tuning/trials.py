"""Trials as runs of the plan: the space of a method, the run of one trial, and the row that a finished one leaves."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from fairbench.method.composition import build_method, method_parts, resolve_method
from fairbench.results.folder import RunFolder
from fairbench.run.settings import frozen_ids
from fairbench.run.tuning.scores import Score, score
from fairbench.run.tuning.search import Planned, Space
from fairbench.run.tuning.table import TrialRow
from fairbench.suites.spec import RunSpec, Trial
from fairbench.suites.suite import PREREQUISITES, Suite, Tuning

__all__ = ["needed_by", "row_of", "space_of", "trial_run"]


def space_of(base: RunSpec, tuning: Tuning, trials: int) -> Space:
    """Return what the trials of a run's method try; `base` is the run with the suite's recipe.

    A learning rate of the method's own recipe is tried after the suite's.
    """
    knobs: list[tuple[str, tuple[Any, ...]]] = []
    for component, cls in method_parts(base.method.name)[1].items():
        for parameter in cls.hyper_parameters():
            now = base.method.options[component][parameter.name]
            values = tuple(value for value in getattr(parameter, "search", None) or () if value != now)
            knobs += [(f"{component}.{parameter.name}", values)] if values else []
    method = build_method(base.method)
    own = any("lr" in part.own_recipe for part in (method, *method.policies))
    extra = (base.recipe.lr,) if own and base.recipe.lr not in tuning.lr else ()
    return Space(tuning.lr, tuple(knobs), trials, tuning.seeds, extra)


def trial_run(base: RunSpec, planned: Planned, tuning: Tuning, suite: Suite) -> RunSpec:
    """Return the run of one trial: the method's run with the settings and the seed that the trial tries.

    It is trained, scored on held-out images, and neither selects a checkpoint nor is evaluated. A natural teacher,
    which no adversarial attack spares, is scored on clean images.
    """
    candidate = planned.candidate
    changes: dict[str, Any] = {
        "recipe": base.recipe.override({"lr": candidate.lr}, f"a trial of {base.label}"),
        "method": resolve_method(base.method.name, dict(candidate.options)),
        "seed": planned.seed,
        "trial": Trial(
            attack="clean" if base.role == "natural-teacher" else suite.selection.attack,
            epochs=min(tuning.epochs, base.recipe.epochs),
        ),
        "until": "trained",
        "selection": suite.selection.model_copy(update={"rule": "last"}),
    }
    return base.model_copy(update=changes)


def row_of(number: int, spec: RunSpec, options: dict[str, Any], budget: str, results: Path) -> TrialRow | None:
    """Return a finished trial as a row of the table of trials, None while it is not finished.

    `options` are the hyper-parameters that it tried. A training that diverged has no score.
    """
    folder = RunFolder(results / spec.folder)
    record = folder.read()
    if record.get("status") not in {"trained", "diverged"}:
        return None
    found: Score | None = None
    if record["status"] == "trained":
        with folder.history.open(newline="", encoding="utf-8") as handle:
            found = score(list(csv.DictReader(handle)))
    figures: dict[str, Any] = {}
    if found is not None:
        figures = {name: round(getattr(found, name), 6) for name in ("average", "worst")}
        figures |= {
            "score": round(found.value, 6),
            "score_se": round(found.se, 6),
            "n": found.n,
            "epochs": found.epochs,
        }
        figures["worst_class"] = record["class_names"][found.worst_class]
    return TrialRow(
        suite=spec.suite,
        version=spec.version,
        method=spec.label,
        trial=number,
        seed=spec.seed,
        lr=spec.recipe.lr,
        options=json.dumps(options, sort_keys=True),
        status="diverged" if found is None else "scored",
        budget=budget,
        prerequisites=";".join(f"{need}={frozen}" for need, frozen in frozen_ids(needed_by(spec)).items()) or None,
        train_seconds=round(record.get("cost", {}).get("train_seconds", 0.0), 2),
        run_id=spec.run_id,
        **figures,
    )


def needed_by(spec: RunSpec) -> dict[str, RunSpec | str]:
    """Return the models that a run is given, by need."""
    return {need: given for need in PREREQUISITES if (given := getattr(spec, need)) is not None}
