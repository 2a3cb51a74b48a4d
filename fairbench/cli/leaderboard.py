"""`fairbench leaderboard`: build, read and compare leaderboards."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairbench.cli.options import (
    Committed,
    Out,
    Publish,
    SuiteName,
    known_suites,
    local_only,
    root_folder,
    written_path,
)
from fairbench.cli.plain import PlainTyper

if TYPE_CHECKING:
    from fairbench.leaderboard.merge import Merged

__all__ = ["BoardFormat", "Checkpoint", "app"]

app = PlainTyper(
    help="Build, read and compare leaderboards.",
    epilog="Example: fairbench leaderboard show digits",
    no_args_is_help=True,
)


class BoardFormat(StrEnum):
    """The format of a board."""

    table = "table"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"
    json = "json"


class Checkpoint(StrEnum):
    """The epoch that selection chose, or the final one."""

    best = "best"
    last = "last"


BoardName = Annotated[
    str,
    typer.Argument(help="A suite's name, SUITE/v3 for one version, or a leaderboard CSV.", autocompletion=known_suites),
]
AttackName = Annotated[str, typer.Option(metavar="NAME", help="An attack of the board, or the union of all.")]
Kind = Annotated[
    Checkpoint, typer.Option(metavar="KIND", help="best: of the epoch that selection chose; last: of the final epoch.")
]
As = Annotated[BoardFormat, typer.Option("--format", metavar="NAME", help="table, csv, markdown, latex or json.")]


@app.command("build", epilog="Example: fairbench leaderboard build digits")
def build_command(suite: SuiteName, out: Out = None, publish: Publish = False) -> None:
    """Rebuild a suite's leaderboards from its run folders."""
    from fairbench.leaderboard import builder
    from fairbench.results import remote

    root = root_folder(out, publish)
    paths = builder.build_boards(root / "results", root / "leaderboards", suite)
    if out is not None and remote.is_url(out):
        remote.Mirror(out).push_boards()
    for path in paths:
        print(path)


@app.command(
    "show",
    epilog="Example: fairbench leaderboard show digits --by average --attack pgd-20 --format markdown",
)
def show_board_command(
    board: BoardName,
    by: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column to rank by; `fairbench explain` lists them.")
    ] = "worst",
    attack: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="An attack of the board, `union` of all attacks, or `all`: a row for each attack."
        ),
    ] = "union",
    checkpoint: Kind = Checkpoint.best,
    base: Annotated[
        str | None, typer.Option(metavar="METHOD", help="Method to which scores and costs are relative.")
    ] = None,
    cost: Annotated[bool, typer.Option("--cost", help="Show what training costs, instead of the ranking.")] = False,
    classes: Annotated[bool, typer.Option("--classes", help="Also show every class's accuracy.")] = False,
    papers: Annotated[bool, typer.Option("--papers", help="Also show what papers report on the dataset.")] = False,
    published: Annotated[bool, typer.Option("--published", hidden=True, help="Old name of --papers.")] = False,
    format_: As = BoardFormat.table,
    out: Out = None,
    publish: Committed = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the file's rows as they are, as JSON.")] = False,
) -> None:
    """Rank a leaderboard's methods, by default by their worst class under the union of all attacks."""
    from fairbench.leaderboard import lookup
    from fairbench.report.text import board as view

    root = root_folder(out, publish)
    path = lookup.find_board(board, root)
    if json_:
        print(view.rows_as_json(path))
        return
    print(
        view.show_board(
            path,
            by=by,
            attack=attack,
            checkpoint=checkpoint.value,
            base=base,
            cost=cost,
            classes=classes,
            published=root if papers or published else None,
            format_=format_.value,
            merged=_merged(board, path),
        )
    )


@app.command("compare", epilog="Example: fairbench leaderboard compare absld rslad digits --seed 0")
def compare_command(
    a: Annotated[str, typer.Argument(help="A method of the board, or a run id.")],
    b: Annotated[str, typer.Argument(help="The method or run to compare it with.")],
    board: BoardName = "digits",
    attack: AttackName = "union",
    checkpoint: Kind = Checkpoint.best,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Compare the checkpoints of this seed image by image.")
    ] = None,
    format_: As = BoardFormat.table,
    out: Out = None,
    publish: Committed = False,
) -> None:
    """Compare A with B class by class, and say which differences are significant."""
    from fairbench.leaderboard import lookup
    from fairbench.leaderboard.comparison import compare_rows
    from fairbench.report.text import board as view

    path = lookup.find_board(board, root_folder(out, publish))
    text = None if seed is None else str(seed)
    merged = _merged(board, path)
    found = compare_rows(path, a, b, attack=attack, checkpoint=checkpoint.value, seed=text, board=merged.frame)
    print(view.compared(found, format_.value, merged.notes))


@app.command("html", epilog="Example: fairbench leaderboard html digits --out site")
def html_command(
    boards: Annotated[list[str], typer.Argument(help="Names of suites, all versions of each, or leaderboard CSVs.")],
    out: Annotated[Path, typer.Option(parser=written_path, metavar="FOLDER", help="Folder for the pages.")] = Path(
        "site"
    ),
    results: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Folder of your results and leaderboards (default: ./fairbench-out)."),
    ] = None,
    publish: Committed = False,
) -> None:
    """Write leaderboards as HTML pages that open from a disk without a server or a network, index.html first."""
    from fairbench.leaderboard import lookup
    from fairbench.report.html import site

    local_only("--out", out)
    root = root_folder(results, publish)
    paths = {path: name for name in reversed(boards) for path in lookup.find_boards([name], root)}
    merged = {path: _merged(name, path) for path, name in paths.items()}
    pages = site.build_site(lookup.find_boards(boards, root), out, merged=merged)
    for note in dict.fromkeys(note for found in merged.values() for note in found.notes):
        print(note, file=sys.stderr)
    print(pages[0])


def _merged(board: str, path: Path) -> Merged:
    """Read a board; a board named by its suite gets the committed rows of equal protocol and budget."""
    from fairbench.leaderboard import merge

    return merge.read_alone(path) if board.endswith(".csv") or "/" in board else merge.merged(path)
