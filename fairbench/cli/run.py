"""`fairbench run`: a suite from plan to leaderboard."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from fairbench.cli.options import (
    Address,
    Jobs,
    Logs,
    Methods,
    Out,
    Plugins,
    Publish,
    SuiteName,
    add_plugins,
    announce_code,
    announce_loggers,
    check_address,
    command_line,
    root_folder,
)
from fairbench.cli.values import parse_settings, split_integers, split_names

__all__ = ["run_command"]


def run_command(
    suite: SuiteName,
    methods: Methods = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N", help="Comma-separated seeds (default: the suite's).")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting, as recipe.epochs=30 or absld.temperature_rate=0.05; the result is not ranked. "
            "May be repeated.",
        ),
    ] = None,
    precision: Annotated[
        Literal["float32", "bf16", "float64"] | None,
        typer.Option(
            metavar="TYPE", help="Arithmetic of the training: float32, bf16 or float64 (default: the suite's)."
        ),
    ] = None,
    jobs: Jobs = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A smoke test under a protocol of its own, never ranked.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the plan, its state and an estimate of the time left; run nothing."),
    ] = False,
    launcher: Annotated[
        Literal["local", "ray"],
        typer.Option(metavar="NAME", help="local: processes on this machine; ray: a Ray cluster."),
    ] = "local",
    models: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of published models (default: $FAIRBENCH_MODELS or ~/.cache/fairbench/models).",
        ),
    ] = None,
    address: Address = None,
    log: Logs = None,
    out: Out = None,
    publish: Publish = False,
    plugin: Plugins = None,
) -> None:
    """Train, select and evaluate a suite's methods, then rank them; finished runs are not run again."""
    from fairbench import distributed
    from fairbench.files import require_writable
    from fairbench.results import remote
    from fairbench.run import benchmark

    check_address(address, launcher)
    add_plugins(plugin)
    announce_loggers(log)
    for key, _, value in (text.partition("=") for text in set_ or ()):
        announce_code("--set", model=value if key.rpartition(".")[2] == "model" else None, attacks=[value])
    chosen = [f"recipe.precision={precision}"] if precision else []
    root = root_folder(out, publish)
    require_writable(root, "--out")
    say = partial(print, file=sys.stderr) if distributed.rank() == 0 else lambda _: None
    with distributed.joined():
        specs = benchmark.prepare_plan(
            suite,
            methods=split_names(methods),
            seeds=split_integers(seeds),
            overrides=parse_settings([*(set_ or ()), *chosen]),
            quick=quick,
            plugins=[str(path.resolve()) for path in plugin or ()],
            command=command_line(),
            root=root,
            models=models,
            say=say,
        )
        if not dry_run:
            url = out if remote.is_url(out) else None
            with remote.pushing(url if distributed.rank() == 0 else None, specs, weights=launcher == "local"):
                board = benchmark.execute_plan(
                    specs, jobs=jobs, root=root, launcher=launcher, address=address, url=url, say=say
                )
            if distributed.rank() == 0:
                from fairbench.report.text.board import shown_after_a_run

                print(shown_after_a_run(board))
        elif distributed.rank() == 0:
            from fairbench.run import forecast

            expected = forecast.forecast(specs, root / "results")
            print(forecast.render_forecasts(expected, jobs or os.cpu_count() or 1, launcher))
