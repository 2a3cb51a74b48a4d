"""`fairbench evaluate` and `fairbench report`: one checkpoint, one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairbench.cli.options import AsJson, Plugins, add_plugins, announce_code, command_line, local_only, written_path
from fairbench.cli.values import MAX_SEED, parse_number, require_within, split_numbers
from fairbench.errors import FairbenchError, Interrupted, InvalidInput
from fairbench.plugins.calls import has_module, names_code, split_calls
from fairbench.suites.sections import BATCH_SIZE

__all__ = ["evaluate_command", "report_command"]

SOURCE = "A checkpoint file, robustbench:NAME, timm:NAME, torchvision:NAME, pyautoattack:model_test or module:callable."

_LOST = "nothing is kept without --out"


def evaluate_command(
    model: Annotated[str, typer.Argument(help=SOURCE)],
    dataset: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="A name that `fairbench datasets` lists, npz:FILE, npz:TRAIN,TEST or folder:DIR."
        ),
    ],
    attacks: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Comma-separated names of `fairbench attacks`, with steps and arguments "
            "(default: clean, fgsm, pgd-20, pgd-20:rel_step=0.25, cw-30, autoattack).",
        ),
    ] = None,
    norm: Annotated[str, typer.Option(metavar="NORM", help="Norm of the threat model: Linf, L2 or L1.")] = "Linf",
    eps: Annotated[
        str,
        typer.Option(
            metavar="X",
            help="Largest perturbation, epsilon, in units of the pixel range 0 to 1; a fraction or a number.",
        ),
    ] = "8/255",
    arch: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Architecture of a checkpoint of another program: a name of `fairbench models`, or module:callable.",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="X,X", help="Comma-separated channel means that training subtracted (default: none)."),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            metavar="X,X", help="Comma-separated channel deviations that training divided by (default: none)."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Weights of a file that holds several: raw, ema, or their name in the file (default: raw).",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images that are attacked at once.")] = BATCH_SIZE,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="A torch device (default: a GPU where there is one).")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the random starts of attacks.")] = 0,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Evaluate a class-balanced subset of N images; the report says so (default: all)."
        ),
    ] = None,
    flags: Annotated[
        bool,
        typer.Option(
            "--flags/--no-flags", help="Whether to run the sanity checks for gradient masking (docs/flags.md)."
        ),
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            parser=written_path,
            metavar="FOLDER",
            help="Folder for report.json and verdicts.npz; after a stop the same command resumes there.",
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--report", parser=written_path, metavar="FILE", help="Write the report as one HTML file."),
    ] = None,
    plugin: Plugins = None,
    json_: AsJson = False,
) -> None:
    """Attack any model and report its robust accuracy class by class, the worst class first.

    Attacks take arguments: pgd-20:step=0.003, or a loss of your own, pgd-20:loss=module:callable.
    """
    from fairbench import distributed
    from fairbench.report.text.audit import render_report
    from fairbench.run import audit

    require_within("--seed", seed, -MAX_SEED, MAX_SEED)
    require_within("--batch-size", batch_size, 1, 2**31 - 1)
    for option, path in (("--out", out), ("--report", page)):
        local_only(option, path)
    add_plugins(plugin)
    # A misspelt source names no code; opening the model reports the error in one line.
    announce_code("MODEL", model=model if names_code(model) and has_module(model) else None)
    announce_code("--arch", model=arch)
    if attacks is not None and not attacks.strip():
        raise InvalidInput("--attacks is empty: name some of `fairbench attacks`")
    given = None if attacks is None else split_calls(attacks)
    announce_code("--attacks", attacks=given or ())
    with distributed.joined(distributed.KEPT if out else _LOST):
        try:
            report = audit.audit_model(
                model,
                dataset,
                arch=arch,
                mean=split_numbers("--mean", mean),
                std=split_numbers("--std", std),
                weights=weights,
                attacks=given,
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
        print(report.to_json() if json_ else render_report(report))


def report_command(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[
        Path,
        typer.Option("--out", parser=written_path, metavar="FILE", help="Picture to write: .svg, .png or .pdf."),
    ] = Path("report.svg"),
) -> None:
    """Plot a run's class-wise state (temperatures, weights, margins) over its epochs."""
    from fairbench.report import history

    local_only("--out", out)
    vectors = history.draw(run, out)
    print(f"{out}: {', '.join(vectors) if vectors else 'this method keeps no class-wise state'}")


class _Lost(FairbenchError):
    """An interruption without stored work: the same command starts from the beginning."""

    exit_code = Interrupted.exit_code
