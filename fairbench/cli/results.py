"""`fairbench results`: checks of run folders before they are added to the committed results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairbench.cli.options import local_only
from fairbench.errors import InvalidInput

__all__ = ["app"]

app = typer.Typer(
    help="Check run folders before they are added to the committed results.",
    epilog="Example: fairbench results check results/digits/my_method",
    no_args_is_help=True,
)


@app.callback()
def _results() -> None:
    """Check run folders before they are added to the committed results."""


@app.command("check", epilog="Example: fairbench results check results/digits/my_method")
def check_results_command(
    paths: Annotated[list[Path], typer.Argument(help="Run folders, or folders that contain some.")],
    full: Annotated[bool, typer.Option("--full", help="Reproduce the verdicts of AutoAttack as well.")] = False,
) -> None:
    """Check run folders: complete, of the suite's protocol and budget, with verdicts that their weights reproduce."""
    from fairbench.run import submission

    for path in paths:
        local_only("PATHS", path)
    runs = submission.find_run_folders(paths)
    failed = 0
    for run in runs:
        outcome = submission.check_submission(run, full=full)
        for reason in outcome.wrong:
            print(f"{run}: {reason}")
        left = f", {len(outcome.left)} not made again" if outcome.left else ""
        if not outcome.wrong:
            print(f"{run}: ok, {len(outcome.remade)} verdicts made again from the weights{left}")
        failed += bool(outcome.wrong)
    if failed:
        raise InvalidInput(f"{failed} of {len(runs)} run folders cannot be added to the results")
