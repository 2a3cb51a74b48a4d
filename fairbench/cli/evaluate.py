"""`fairbench evaluate` and `fairbench report`: one checkpoint, one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fairbench.cli.options import AsJson, parse_number, split_attacks

__all__ = ["evaluate", "report"]


def evaluate(
    model: Annotated[str, typer.Argument(help="A checkpoint file that a run wrote.")],
    dataset: Annotated[str, typer.Option(help="Name, npz:TRAIN,TEST or folder:DIR.")],
    attacks: Annotated[str | None, typer.Option(help="Comma-separated [clean,fgsm,pgd-20,cw-30,autoattack].")] = None,
    norm: Annotated[str, typer.Option(help="Linf or L2.")] = "Linf",
    eps: Annotated[str, typer.Option(help="Perturbation budget in [0,1] pixel units.")] = "8/255",
    batch_size: Annotated[int, typer.Option(min=1)] = 250,
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write report.json and verdicts.npz to.")] = None,
    json_: AsJson = False,
) -> None:
    """Attack any checkpoint and say which class it betrays."""
    from fairbench import audit
    from fairbench.report import table

    report = audit.audit(
        model,
        dataset,
        attacks=split_attacks(attacks),
        norm=norm,
        eps=parse_number("--eps", eps),
        batch_size=batch_size,
        seed=seed,
        out=out,
    )
    print(json.dumps(audit.as_dict(report), indent=1) if json_ else table.audit(report))


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path, typer.Option("--out", help="Picture to write: .svg, .png or .pdf.")] = Path("report.svg"),
) -> None:
    """Plot a run's class-wise state (temperatures, weights, margins) over its epochs."""
    from fairbench.report import history

    vectors = history.draw(run, out)
    print(f"{out}: {', '.join(vectors) if vectors else 'this method keeps no class-wise state'}")
