"""`fairbench evaluate` and `fairbench report`: one checkpoint, one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairbench import registry
from fairbench.cli.options import (
    MAX_SEED,
    AsJson,
    Plugins,
    add_plugins,
    announce_code,
    command_line,
    local_only,
    parse_number,
    split_attacks,
    split_numbers,
)
from fairbench.errors import FairbenchError, Interrupted
from fairbench.suites.spec import BATCH_SIZE

__all__ = ["evaluate_command", "report_command"]

SOURCE = "A checkpoint file, robustbench:NAME, timm:NAME, torchvision:NAME, pyautoattack:model_test or module:callable."

_LOST = "nothing is kept without --out"


def evaluate_command(
    model: Annotated[str, typer.Argument(help=SOURCE)],
    dataset: Annotated[str, typer.Option(help="Name, npz:FILE, npz:TRAIN,TEST or folder:DIR.")],
    attacks: Annotated[str | None, typer.Option(help="Comma-separated (clean,fgsm,pgd-20,cw-30,autoattack).")] = None,
    norm: Annotated[str, typer.Option(help="Linf, L2 or L1.")] = "Linf",
    eps: Annotated[str, typer.Option(help="Perturbation budget in [0,1] pixel units.")] = "8/255",
    arch: Annotated[
        str | None, typer.Option(help="Architecture of foreign weights: a registered model or module:callable.")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Comma-separated channel means that training subtracted.")] = None,
    std: Annotated[
        str | None, typer.Option(help="Comma-separated channel deviations that training divided by.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Weights of a file that holds several: raw, ema, or their name in the file (raw)."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=2**31 - 1)] = BATCH_SIZE,
    device: Annotated[str | None, typer.Option(help="A torch device (default: a GPU where there is one).")] = None,
    seed: Annotated[int, typer.Option(min=-MAX_SEED, max=MAX_SEED)] = 0,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Images to evaluate, a class-balanced subset, marked as such (default: all)."),
    ] = None,
    flags: Annotated[bool, typer.Option("--flags/--no-flags", help="Run the sanity checks of docs/flags.md.")] = True,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder for report.json and verdicts.npz; after a stop the same command resumes there."
        ),
    ] = None,
    page: Annotated[Path | None, typer.Option("--report", help="HTML page to write, in one file.")] = None,
    plugin: Plugins = None,
    json_: AsJson = False,
) -> None:
    """Attack any model and report its robust accuracy class by class, the worst class first.

    Attacks take arguments: pgd-20:step=0.003, or a loss of your own, pgd-20:loss=module:callable.
    """
    from fairbench import distributed
    from fairbench.report.text import table
    from fairbench.run import audit

    for option, path in (("--out", out), ("--report", page)):
        local_only(option, path)
    add_plugins(plugin)
    # A misspelt source names no code; opening the model reports the error in one line.
    announce_code("MODEL", model=model if registry.names_code(model) and registry.has_module(model) else None)
    announce_code("--arch", model=arch)
    announce_code("--attacks", attacks=split_attacks(attacks) or ())
    with distributed.joined(distributed.KEPT if out else _LOST):
        try:
            report = audit.audit_model(
                model,
                dataset,
                arch=arch,
                mean=split_numbers("--mean", mean),
                std=split_numbers("--std", std),
                weights=weights,
                attacks=split_attacks(attacks),
                norm=norm,  # type: ignore[arg-type]
                eps=parse_number("--eps", eps),
                batch_size=batch_size,
                device=device,
                seed=seed,
                limit=limit,
                flags=flags,
                out=out,
                page=page,
                command=command_line(),
            )
        except BaseException as error:
            if out is None and not isinstance(error, Exception | SystemExit):  # a rank leaves by SystemExit
                raise _Lost(f"stopped; {_LOST}") from error
            raise
    if report is not None:
        print(report.to_json() if json_ else table.render_report(report))


def report_command(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path, typer.Option("--out", help="Picture to write: .svg, .png or .pdf.")] = Path("report.svg"),
) -> None:
    """Plot a run's class-wise state (temperatures, weights, margins) over its epochs."""
    from fairbench.report import history

    local_only("--out", out)
    vectors = history.draw(run, out)
    print(f"{out}: {', '.join(vectors) if vectors else 'this method keeps no class-wise state'}")


class _Lost(FairbenchError):
    """An interruption without stored work: the same command starts from the beginning."""

    exit_code = Interrupted.exit_code
