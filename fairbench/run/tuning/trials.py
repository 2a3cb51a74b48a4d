"""Trials as runs of the plan: the search space of a method, the run of one trial, and the row of a finished one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairbench.method.composition import build_method, paper_recipe, resolve_method, search_space
from fairbench.results.folder import RunFolder
from fairbench.run.settings import frozen_ids
from fairbench.run.tuning.scores import Score, score
from fairbench.run.tuning.search import Candidate, Planned, Space
from fairbench.run.tuning.table import TrialRow
from fairbench.suites.sections import MethodSpec, Trial
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import PREREQUISITES, Suite, Tuning

__all__ = ["needed_by", "prerequisites_text", "row_of", "space_of", "trial_run"]

OPTIMISER = ("lr", "weight_decay", "nesterov")


def space_of(base: RunSpec, tuning: Tuning, num_classes: int) -> Space:
    """Return the search space of a run's method; `base` is the run with the suite's recipe.

    The learning rate of a method that declares its own recipe, and the optimiser settings of its paper, are tried after
    the suite's rates. Values of a knob that change nothing are left out.
    """
    knobs: list[tuple[str, tuple[Any, ...]]] = []
    for key, values in search_space(base.method.name).items():
        changes = [value for value in values if _resolved(base, {key: value}, num_classes) != base.method]
        knobs += [(key, tuple(changes))] if changes else []
    method, optimisers = build_method(base.method), dict[tuple[tuple[str, Any], ...], None]()
    if any("lr" in part.own_recipe for part in (method, *method.policies)):
        optimisers[(("lr", base.recipe.lr),)] = None
    paper = paper_recipe(base.method.name)
    settings = {name: paper[name] for name in OPTIMISER if name in paper}
    if any(getattr(base.recipe, name) != value for name, value in settings.items() if name != "lr"):
        optimisers[tuple(settings.items())] = None
    elif "lr" in settings:
        optimisers[(("lr", settings["lr"]),)] = None
    tried = [(("lr", rate),) for rate in tuning.lr]
    further = tuple(settings for settings in optimisers if settings not in tried)
    return Space(tuning.lr, tuple(knobs), tuning.trials, tuning.seeds, further, tuning.confirm)


def trial_run(base: RunSpec, planned: Planned, tuning: Tuning, suite: Suite, num_classes: int) -> RunSpec:
    """Return the run of one trial: the method's run with the trial's settings and seed.

    It is trained, scored on held-out images, and neither selects a checkpoint nor is evaluated. A natural teacher,
    whose robust accuracy is about 0, is scored on clean images.
    """
    candidate = planned.candidate
    changes: dict[str, Any] = {
        "recipe": base.recipe.override(dict(candidate.recipe), f"a trial of {base.label}"),
        "method": _resolved(base, dict(candidate.options), num_classes),
        "seed": planned.seed,
        "trial": Trial(
            attack="clean" if base.role == "natural-teacher" else suite.selection.attack,
            epochs=min(tuning.epochs, base.recipe.epochs),
        ),
        "until": "trained",
        "selection": suite.selection.model_copy(update={"rule": "last"}),
    }
    return base.model_copy(update=changes)


def _resolved(base: RunSpec, options: Mapping[str, Any], num_classes: int) -> MethodSpec:
    return resolve_method(base.method.name, options, num_classes=num_classes)


def row_of(number: int, spec: RunSpec, candidate: Candidate, budget: str, results: Path) -> TrialRow | None:
    """Return a finished trial as a row of the table of trials, None for an unfinished one.

    `candidate` is its setting. A training that diverged has no score.
    """
    folder = RunFolder(results / spec.folder)
    record = folder.read()
    if record.get("status") not in {"trained", "diverged"}:
        return None
    found: Score | None = None
    if record["status"] == "trained":
        found = score(folder.read_history())
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
        recipe=json.dumps(dict(candidate.recipe), sort_keys=True),
        options=json.dumps(dict(candidate.options), sort_keys=True),
        status="diverged" if found is None else "scored",
        budget=budget,
        prerequisites=prerequisites_text(spec),
        train_seconds=round(record.get("cost", {}).get("train_seconds", 0.0), 2),
        run_id=spec.run_id,
        **figures,
    )


def prerequisites_text(spec: RunSpec) -> str | None:
    """The column `prerequisites` of a run's trials: the frozen ids of the models that it is given."""
    return ";".join(f"{need}={frozen}" for need, frozen in frozen_ids(needed_by(spec)).items()) or None


def needed_by(spec: RunSpec) -> dict[str, RunSpec | str]:
    """Return the models that a run is given, by need."""
    return {need: model for need in PREREQUISITES if (model := getattr(spec, need)) is not None}
