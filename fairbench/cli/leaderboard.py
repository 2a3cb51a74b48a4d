"""`fairbench leaderboard`: build and read leaderboards."""

from __future__ import annotations

from typing import Annotated

import typer

from fairbench.cli.options import AsJson, Out, Publish, print_board, root_folder

__all__ = ["app"]

app = typer.Typer(
    help="Build and read leaderboards.", epilog="Example: fairbench leaderboard show digits", no_args_is_help=True
)


@app.command("build", epilog="Example: fairbench leaderboard build digits")
def build(suite: str, out: Out = None, publish: Publish = False) -> None:
    """Rebuild a suite's leaderboards from its run folders."""
    from fairbench import leaderboard

    root = root_folder(out, publish)
    for path in leaderboard.build(root / "results", root / "leaderboards", suite):
        print(path)


@app.command("show", epilog="Example: fairbench leaderboard show digits")
def show(
    board: Annotated[str, typer.Argument(help="A suite's name, or a leaderboard CSV.")],
    out: Out = None,
    publish: Publish = False,
    json_: AsJson = False,
) -> None:
    """Show a leaderboard: average, worst class and NSD under each attack, with 95 % intervals."""
    from fairbench import benchmark

    path = benchmark.find_board(board, root_folder(out, publish))
    if json_:
        from fairbench.leaderboard import load_leaderboard

        print(load_leaderboard(path).to_json(orient="records", indent=1))
    else:
        print_board(path)
