"""Tune a suite: prerequisites first and then frozen, then every method with the same budget, resumable at any point."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from fairbench.data import load_dataset
from fairbench.errors import InvalidInput
from fairbench.files import locked
from fairbench.results.folder import RunFolder
from fairbench.run.benchmark import bring_to_completion
from fairbench.run.pipeline import is_done
from fairbench.run.plan import plan
from fairbench.run.tuning.desk import Desk, Search
from fairbench.suites.chosen import Choice, find_chosen
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import PREREQUISITES, Suite, Tuning, load_suite

__all__ = ["tunable", "tune"]

Execute = Callable[[Sequence[RunSpec]], None]
Say = Callable[[str], None]


def tune(
    name: str,
    *,
    methods: Sequence[str] | None = None,
    trials: int | None = None,
    seeds: Sequence[int] | None = None,
    jobs: int | None = None,
    root: Path = Path("fairbench-out"),
    launcher: Literal["local", "ray"] = "local",
    address: str | None = None,
    plugins: Sequence[str] = (),
    command: str = "",
    say: Say = lambda _: None,
) -> Path:
    """Find the settings of a suite's methods and return the table of trials below `root`, written as trials finish.

    Teachers and warm starts that the methods need are tuned first, unless settings that still hold are there, then
    trained with what was chosen and frozen. `trials` and `seeds` are the suite's unless given; another number of trials
    is another budget. What is finished is not run again. `say` is told of every choice, and of the plan and the
    estimated time of every group of runs. Raises InvalidInput for a suite that is tuned on another, and for trial seeds
    that the suite evaluates.
    """
    suite = tunable(name, trials, seeds)
    desk = Desk(suite, root)
    planned = partial(plan, suite, methods=_own(suite, methods), seeds=[0], plugins=plugins, command=command)
    how = {"jobs": jobs, "launcher": launcher, "address": address, "say": say}
    execute = partial(_execute, results=desk.results, how=how)
    classes = load_dataset(suite.data.name).num_classes
    with locked(desk.table):
        bare, found = _models(planned()), _models(planned(tuned=find_chosen(name, suite, root)))
        for need, base in bare.items():
            search = Search(base, suite, classes)
            if (found[need].tuning, found[need].budget) != ("tuned", search.budget):
                _finish([search], desk, execute, say)
        frozen = planned(tuned=find_chosen(name, suite, root).prerequisites_only())
        execute([spec.model_copy(update={"until": "trained"}) for spec in _models(frozen).values()])
        students = [spec for spec in frozen if spec.role == "student"]
        searches = [Search(spec, suite, classes) for spec in students]
        side_by_side = max(1, (jobs or os.cpu_count() or 1) // 2)  # the last trials of a method are two at a time
        for start in range(0, len(searches), side_by_side):
            _finish(searches[start : start + side_by_side], desk, execute, say)
    return desk.table


def tunable(name: str, trials: int | None = None, seeds: Sequence[int] | None = None) -> Suite:
    """Open a suite that is to be tuned, with another number of trials and other seeds for them where given."""
    suite = load_suite(name)
    if suite.tuned_on is not None:
        raise InvalidInput(f"suite {suite.name} runs with the settings tuned on {suite.tuned_on}: tune that one")
    tuning = suite.tuning or Tuning()
    seeds = tuple(seeds or tuning.seeds)
    given = [getattr(suite, need) for need in PREREQUISITES]
    evaluated = {*suite.seeds, *(model.seed for model in given if model is not None)}
    shared = sorted(evaluated.intersection(seeds))
    if shared:
        raise InvalidInput(f"seed {shared[0]} is one that suite {suite.name} evaluates: trials have seeds of their own")
    return suite.override({"tuning": {**tuning.model_dump(), "trials": trials or tuning.trials, "seeds": seeds}})


def _own(suite: Suite, methods: Sequence[str] | None) -> list[str]:
    """The methods to tune: those named, or the suite's own; raises InvalidInput for one that inherits its settings."""
    if methods is None:
        return [name for name in suite.methods if name not in suite.inherits]
    for name in methods:
        if name in suite.inherits:
            raise InvalidInput(f"{name} has no trials of its own: it inherits the settings of {suite.inherits[name]}")
    return list(methods)


def _models(specs: Sequence[RunSpec]) -> dict[str, RunSpec]:
    """The teachers and the warm start of a plan that are trained, by need."""
    return {spec.role.replace("-", "_"): spec for spec in specs if spec.role != "student" and spec.checkpoint is None}


def _finish(searches: Sequence[Search], desk: Desk, execute: Execute, say: Say) -> None:
    """Run the trials of some searches side by side until each has spent its budget, and write what they choose."""
    while True:
        pending = [spec for search in searches for spec in search.harvest(desk.results, desk.rows)]
        for search in searches:
            desk.keep(search)
        if not pending:
            break
        execute(pending)
    for search in searches:
        say(_verdict(search, desk.settle(search)))


def _verdict(search: Search, entry: Choice | None) -> str:
    label = search.base.label
    if entry is None:
        return f"{label}: every trial diverged; it stays untuned"
    settings = [f"{name} {value}" for name, value in {**entry.recipe, **entry.options}.items()]
    return (
        f"{label}: {', '.join(settings)} of {entry.trials} trials; held-out average {entry.average:.3f}, worst class "
        f"{entry.worst:.3f}, score {entry.score:.3f} +- {entry.score_se:.3f}"
    )


def _execute(specs: Sequence[RunSpec], *, results: Path, how: Mapping[str, object]) -> None:
    """Bring runs to completion; raises what they raise."""
    pending = [spec for spec in specs if not is_done(spec, RunFolder(results / spec.folder))]
    bring_to_completion(pending, results, **how)  # type: ignore[arg-type]
