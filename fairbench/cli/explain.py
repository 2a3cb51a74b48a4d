"""`fairbench explain` and `fairbench show`: the meaning of a column, and the origin of a row."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairbench.cli.options import AsJson, Committed, Out, root_folder, two_columns
from fairbench.errors import UnknownName
from fairbench.leaderboard import columns, headings

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["explain_command", "show_row_command"]


def explain_command(
    column: Annotated[
        str | None, typer.Argument(help="A column of a leaderboard, or a heading of a table (default: all columns).")
    ] = None,
    json_: AsJson = False,
) -> None:
    """Explain a column of a leaderboard or a heading of its tables, with type, unit and range of its cells."""
    if column is not None:
        facts = headings.explain_heading(column)
        print(json.dumps(facts, indent=1) if json_ else two_columns(facts))
    elif json_:
        print(json.dumps([columns.explain_column(name) for name in columns.EVERY], indent=1))
    else:
        print(two_columns({name: columns.column(name).meaning for name in columns.EVERY}))


def show_row_command(
    row: Annotated[str, typer.Argument(help="A run id, or METHOD/SEED, METHOD/SEED/last, METHOD/SEED/best/pgd-20.")],
    board: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A suite's name, SUITE/v3, or a leaderboard CSV (default: your boards, then the committed ones).",
        ),
    ] = None,
    out: Out = None,
    publish: Committed = False,
    json_: AsJson = False,
) -> None:
    """Show the origin of a row of a leaderboard, with the commands that reproduce it."""
    from fairbench.leaderboard import lineage, lookup

    root = root_folder(out, publish)
    committed = lookup.known_boards(lookup.committed_folder())
    boards = [lookup.find_board(board, root)] if board else lookup.known_boards(root / "leaderboards") or committed
    try:
        path, line = _committed_row(row, boards) if boards == committed else lineage.find_row(row, boards)
    except UnknownName:
        if board or boards == committed:
            raise
        path, line = _committed_row(row, committed)
    facts = lineage.lineage(path, line)
    print(json.dumps(facts, indent=1, default=str) if json_ else lineage.render_lineage(facts))


def _committed_row(row: str, boards: list[Path]) -> tuple[Path, pd.Series[Any]]:
    """Return the board that has a row, and the row; of several boards that with most rows, and name the others."""
    from fairbench.leaderboard import lineage
    from fairbench.leaderboard.board import load_leaderboard

    found = lineage.find_rows(row, boards)
    if len(found) == 1:
        return found[0]
    largest = max(found, key=lambda pair: len(load_leaderboard(pair[0])))
    where, others = largest[0].parent.name, ", ".join(path.parent.name for path, _ in found if path != largest[0])
    print(f"row {row} of {where}, the largest board with it; --board names another: {others}", file=sys.stderr)
    return largest
