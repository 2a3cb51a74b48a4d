"""`fairbench check`: the regression gate."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from fairbench.cli.options import local_path, split_names

__all__ = ["GateFormat", "GateUnit", "check_command"]


class GateFormat(StrEnum):
    """The format of the outcome."""

    table = "table"
    markdown = "markdown"
    json = "json"


class GateUnit(StrEnum):
    """The subject of the claim: these checkpoints, or their methods with the seeds as the sample."""

    checkpoint = "checkpoint"
    method = "method"


def check_command(
    baseline: Annotated[
        str, typer.Option(help="Leaderboard CSV or suite, run folders, a URL of them, or a folder of `evaluate --out`.")
    ],
    candidate: Annotated[str, typer.Option(help="The same for the candidate.")],
    max_drop: Annotated[float, typer.Option(min=0, max=100, help="Tolerated drop in percentage points.")] = 2.0,
    metric: Annotated[str, typer.Option(help="Comma-separated: worst, average, class (each class).")] = (
        "worst,average,class"
    ),
    attack: Annotated[str, typer.Option(help="An attack of the protocol, or the union of all.")] = "union",
    alpha: Annotated[
        float, typer.Option(help="Probability of any false alarm among the tested figures; flags are not tested.")
    ] = 0.05,
    max_slowdown: Annotated[
        float | None, typer.Option(help="Fail when training costs more than this factor of the baseline's.")
    ] = None,
    require_mde: Annotated[
        float | None, typer.Option(help="Refuse (exit 2) data too small to detect a true drop of so many points.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help="Comma-separated, OLD=NEW for two methods, or shared: those of both sides (default: all)."),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Comma-separated, or shared: those of both sides (default: all)."),
    ] = None,
    unit: Annotated[GateUnit, typer.Option(help="What is compared: checkpoints, or methods (three seeds or more).")] = (
        GateUnit.checkpoint
    ),
    runs: Annotated[
        int,
        typer.Option(min=1, help="Planned number of runs with this baseline; alpha holds for all of them together."),
    ] = 1,
    pin: Annotated[str | None, typer.Option(help="Refuse (exit 2) a baseline whose figures have another pin.")] = None,
    format_: Annotated[GateFormat, typer.Option("--format", help="table, markdown or json.")] = GateFormat.table,
) -> None:
    """Fail (exit 1) when a class, the worst class or the average lost more robust accuracy than tolerated."""
    from fairbench import gate
    from fairbench.report.text import gate as view

    outcome = gate.check(
        local_path(baseline),
        local_path(candidate),
        max_drop=max_drop,
        metric=split_names(metric) or [],
        attack=attack,
        alpha=alpha,
        max_slowdown=max_slowdown,
        methods=split_names(methods),
        seeds=split_names(seeds),
        unit=unit.value,
        runs=runs,
        pin=pin,
    )
    if format_ is GateFormat.json:
        print(json.dumps(view.as_dict(outcome), indent=1))
    else:
        print(view.gate_markdown(outcome) if format_ is GateFormat.markdown else view.gate_table(outcome))
    if require_mde is not None:
        outcome.require_detectable(require_mde)
    if not outcome.passed:
        raise typer.Exit(1)
    outcome.require_decidable()
