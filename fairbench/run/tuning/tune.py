"""Tune a suite: prerequisites first, then every method with the same budget; a stopped tuning resumes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from fairbench.files import locked
from fairbench.results.folder import RunFolder
from fairbench.run.benchmark import bring_to_completion
from fairbench.run.pipeline import is_done
from fairbench.run.tuning.files import TuningFiles
from fairbench.run.tuning.method_search import Search
from fairbench.run.tuning.show import setting_text
from fairbench.run.tuning.stages import open_stages
from fairbench.suites.chosen import Choice
from fairbench.suites.spec import RunSpec

__all__ = ["tune"]

Execute = Callable[[Sequence[RunSpec]], None]
Say = Callable[[str], None]


def tune(
    name: str,
    *,
    jobs: int | None = None,
    root: Path = Path("fairbench-out"),
    launcher: Literal["local", "ray"] = "local",
    address: str | None = None,
    say: Say = lambda _: None,
    **choice: Any,
) -> Path:
    """Find the settings of a suite's methods; return the table of trials below `root`, which grows as trials finish.

    `choice` holds the keyword arguments of `open_stages`: methods, trials, seeds, plugins, command. Teachers and warm
    starts that the methods need are tuned first, unless valid settings exist, then trained with what was chosen and
    frozen. Another number of trials is another budget, whose rows stand beside those of the others. Finished trials are
    not run again. `say` receives every choice, and the plan and the estimated time of every group of runs. Raises what
    `open_stages` and the runs raise, and InvalidInput for other seeds than those of finished trials of the same budget.
    """
    stages = open_stages(name, root=root, **choice)
    files = TuningFiles(stages.suite, root)
    how = {"jobs": jobs, "launcher": launcher, "address": address, "say": say}
    execute = partial(_execute, results=files.results, how=how)
    with locked(files.table):
        for search in stages.prerequisites():
            _finish([search], files, execute, say)
        execute(stages.frozen())
        searches = stages.students()
        side_by_side = jobs or os.cpu_count() or 1  # a method may have one trial that can run, until it is scored
        for start in range(0, len(searches), side_by_side):
            _finish(searches[start : start + side_by_side], files, execute, say)
    return files.table


def _finish(searches: Sequence[Search], files: TuningFiles, execute: Execute, say: Say) -> None:
    """Run the trials of some searches side by side until each has spent its budget, and write the chosen settings."""
    for search in searches:
        files.protect(search)
    while True:
        pending = [spec for search in searches for spec in search.harvest(files.results, files.rows)]
        for search in searches:
            files.keep(search)
        if not pending:
            break
        for search in searches:
            say(_agenda(search))
        execute(pending)
    for search in searches:
        say(_verdict(search, files.settle(search)))


def _agenda(search: Search) -> str:
    """The trials of a method that run now, with what each of them tries."""
    left = [(number, trial) for number, trial in enumerate(search.trials(), 1) if trial not in search.rows]
    numbers = ", ".join(str(number) for number, _ in left)
    tried = [
        f"{setting_text(dict(trial.candidate.recipe), dict(trial.candidate.options))} (seed {trial.seed})"
        for _, trial in left
    ]
    plural = "s" if len(left) > 1 else ""
    return f"{search.base.label}: trial{plural} {numbers} of {search.tuning.trials}: {'; '.join(tried)}"


def _verdict(search: Search, entry: Choice | None) -> str:
    label = search.base.label
    if entry is None:
        return f"{label}: every trial diverged; it stays untuned"
    return (
        f"{label}: {setting_text(entry.recipe, entry.options)} chosen after {entry.trials} trials; on held-out images "
        f"average {100 * entry.average:.1f} %, worst class {100 * entry.worst:.1f} %, "
        f"score {100 * entry.score:.1f} ± {100 * entry.score_se:.1f}"
    )


def _execute(specs: Sequence[RunSpec], *, results: Path, how: Mapping[str, object]) -> None:
    """Bring runs to completion; raises what they raise."""
    pending = [spec for spec in specs if not is_done(spec, RunFolder(results / spec.folder))]
    bring_to_completion(pending, results, **how)  # type: ignore[arg-type]
