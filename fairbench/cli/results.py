"""`fairbench results`: checks of run folders before they are added to the committed results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairbench.cli.options import local_only
from fairbench.cli.plain import PlainTyper
from fairbench.errors import InvalidInput

if TYPE_CHECKING:
    from fairbench.run.submission import SubmissionOutcome

__all__ = ["app"]

app = PlainTyper(
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
            print(f"{run}: {reason.removeprefix(f'{run}/')}")
        if not outcome.wrong:
            print(f"{run}: ok, {_made_again(outcome)}")
        failed += bool(outcome.wrong)
    if failed:
        raise InvalidInput(f"{failed} of {len(runs)} run folders cannot be added to the results")


def _made_again(outcome: SubmissionOutcome) -> str:
    """Say how many attacks gave the stored verdicts again, and why the others were not run."""
    total = len(outcome.remade) + len(outcome.left)
    absent = [
        f"{kind}.safetensors" for kind in ("best", "last") if not (outcome.path / f"{kind}.safetensors").is_file()
    ]
    costly = [key for key in outcome.left if f"{key.partition('/')[0]}.safetensors" not in absent]
    why = [f"no {name}" for name in absent] + [f"{key}: only with --full" for key in costly]
    same = ", with the same verdicts" if outcome.remade else ""
    return f"{len(outcome.remade)} of {total} attacks run again{same}" + (f" ({', '.join(why)})" if why else "")
