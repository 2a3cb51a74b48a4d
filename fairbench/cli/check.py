"""`fairbench check`: the regression gate."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from fairbench.cli.options import local_path
from fairbench.cli.values import split_names

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
        str,
        typer.Option(
            metavar="PATH",
            help="The results to compare with: a leaderboard CSV, a suite's name for its committed leaderboard, "
            "run folders or a URL of them, or the folder of `fairbench evaluate --out`.",
        ),
    ],
    candidate: Annotated[str, typer.Option(metavar="PATH", help="The results to test, in any of these forms.")],
    max_drop: Annotated[
        float, typer.Option(metavar="X", min=0, help="Tolerated drop in percentage points, below 100.")
    ] = 2.0,
    metric: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="Figures to test, comma-separated: the worst class, the average, each class."
        ),
    ] = ("worst,average,class"),
    attack: Annotated[
        str, typer.Option(metavar="NAME", help="An attack of both sides, or the union of all.")
    ] = "union",
    alpha: Annotated[
        float, typer.Option(metavar="X", help="Probability of any false alarm among all tested figures.")
    ] = 0.05,
    max_slowdown: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Also fail if training takes more than X times the seconds or the operations of the baseline's.",
        ),
    ] = None,
    require_mde: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="No verdict (exit 2) if a true drop of X points would be missed with a probability above 20 %.",
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Methods to compare, comma-separated; OLD=NEW compares two methods; shared: those that both "
            "sides have (default: all of the baseline).",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Seeds to compare, comma-separated; shared: those of both sides (default: all of the baseline).",
        ),
    ] = None,
    unit: Annotated[
        GateUnit,
        typer.Option(
            metavar="NAME",
            help="checkpoint: is this checkpoint less robust? method: is the method, over three seeds or more?",
        ),
    ] = (GateUnit.checkpoint),
    runs: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Planned number of runs with this baseline; alpha holds for all of them together."
        ),
    ] = 1,
    pin: Annotated[
        str | None,
        typer.Option(
            metavar="HASH", help="No verdict (exit 2) unless the baseline has this pin, which every check prints."
        ),
    ] = None,
    format_: Annotated[
        GateFormat, typer.Option("--format", metavar="NAME", help="table, markdown or json.")
    ] = GateFormat.table,
) -> None:
    """Fail (exit 1) if a class, the worst class or the average lost too much robust accuracy, or a flag turned red."""
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
