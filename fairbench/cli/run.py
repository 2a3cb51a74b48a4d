"""`fairbench run`: a suite from plan to leaderboard."""

from __future__ import annotations

from typing import Annotated

import typer

from fairbench.cli.options import (
    Out,
    Plugins,
    Publish,
    add_plugins,
    command_line,
    parse_setting,
    print_board,
    root_folder,
    split_integers,
    split_names,
)

__all__ = ["run"]


def run(
    suite: Annotated[str, typer.Argument(help="Name of a suite, or a YAML file.")],
    methods: Annotated[str | None, typer.Option(help="Comma-separated names, base+policy+policy, or all.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated integers.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, e.g. absld.temperature_rate=0.05.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs side by side, one thread each [cores].")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A smoke test under a protocol of its own, never ranked.")
    ] = False,
    out: Out = None,
    publish: Publish = False,
    plugin: Plugins = None,
) -> None:
    """Train, select and evaluate a suite's methods, then show its leaderboard; finished runs are not run again."""
    from fairbench import benchmark

    add_plugins(plugin)
    board = benchmark.run(
        suite,
        methods=split_names(methods),
        seeds=split_integers(seeds),
        overrides=dict(parse_setting(text) for text in set_ or ()),
        jobs=jobs,
        quick=quick,
        root=root_folder(out, publish),
        plugins=[str(path.resolve()) for path in plugin or ()],
        command=command_line(),
    )
    print_board(board)
