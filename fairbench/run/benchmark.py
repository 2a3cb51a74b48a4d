"""The main job: a suite from plan to leaderboard."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fairbench import distributed
from fairbench.errors import InvalidInput
from fairbench.leaderboard import builder
from fairbench.results.folder import RunFolder
from fairbench.run.entries import protocol_key, protocol_of
from fairbench.run.forecast import forecast, lanes, span, summary
from fairbench.run.launch import Total, launch_local, progress_view, ranks, ray
from fairbench.run.launch.progress import Ahead
from fairbench.run.pipeline import is_done
from fairbench.run.plan import plan
from fairbench.run.settings import describe_settings
from fairbench.run.zoo import absent_models
from fairbench.suites.chosen import find_chosen
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import load_suite

__all__ = ["bring_to_completion", "execute_plan", "prepare_plan"]

Launcher = Literal["local", "ray"]


def prepare_plan(
    suite: str,
    *,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    quick: bool = False,
    plugins: Sequence[str] = (),
    command: str = "",
    root: Path = Path("fairbench-out"),
    models: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[RunSpec]:
    """Return the runs of a suite in the order of execution; raises every input error before anything runs.

    Runs have the settings that tuning chose: the user's below `root`, or those shipped with the package. `say`
    receives a line about each file of settings. `models` is the folder of the published models of a suite of
    checkpoints.
    """
    chosen = load_suite(suite)
    chosen = chosen.as_quick() if quick else chosen
    tuned = find_chosen(suite, chosen, root)
    choice: dict[str, Any] = {"methods": methods, "seeds": seeds, "overrides": overrides}
    specs = plan(chosen, **choice, plugins=plugins, command=command, tuned=tuned, models=models)
    for line in (*describe_settings(chosen, specs, tuned), *absent_models(chosen, models, methods)):
        say(line)
    if not any(spec.role == "student" for spec in specs):
        raise InvalidInput(f"suite {suite}: nothing to run: none of its models is on this machine")
    return specs


def execute_plan(
    specs: Sequence[RunSpec],
    *,
    jobs: int | None = None,
    root: Path = Path("fairbench-out"),
    launcher: Launcher = "local",
    address: str | None = None,
    url: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Bring every run of a plan to completion below `root`, rebuild its boards, and return the board of these runs.

    With `launcher="ray"` the runs go to the Ray cluster at `address`. Its nodes deliver them to `url` when `root` is
    the local mirror of a store. Under torchrun all ranks call this and work on each run together. Runs with overridden
    settings have a board of their own. Complete runs are not run again. Raises what training and evaluation raise.
    """
    results, leaderboards = root / "results", root / "leaderboards"
    with distributed.joined():
        if distributed.rank() > 0:
            ranks.follow()
        else:
            bring_to_completion(specs, results, jobs=jobs, launcher=launcher, address=address, url=url, say=say)
            builder.build_boards(results, leaderboards, specs[-1].suite)
            distributed.tell(None)
    shown = next((spec for spec in specs if spec.custom), specs[-1])
    name = builder.board_name(protocol_key(shown), protocol_of(shown))
    return leaderboards / specs[-1].suite / f"{name}.csv"


def bring_to_completion(
    specs: Sequence[RunSpec],
    results: Path,
    *,
    jobs: int | None = None,
    launcher: Launcher = "local",
    address: str | None = None,
    url: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Execute the runs that are not finished below `results` by a launcher, with a total of their progress.

    `say` receives the plan and the estimate of its time, if anything is left to run.
    """
    pending = [spec for spec in specs if not is_done(spec, RunFolder(results / spec.folder))]
    at_once = jobs or os.cpu_count() or 1
    expected = forecast(pending, results)
    if pending:
        for line in summary(forecast(specs, results) if len(pending) < len(specs) else expected, at_once, launcher):
            say(line)
    ahead: dict[str, list[Ahead]] = {}
    for item in expected:
        ahead.setdefault(item.spec.title, []).append(item.stages)
    with progress_view(Total(ahead, span(expected, lanes(at_once, launcher)))) as view:
        if distributed.world() > 1:
            ranks.launch_ranks(pending, results, jobs=jobs, launcher=launcher, view=view)
        elif launcher == "ray" and pending:
            ray.launch_ray(pending, results, address=address, jobs=jobs, view=view, url=url)
        else:
            launch_local(pending, results, jobs=at_once, view=view)
