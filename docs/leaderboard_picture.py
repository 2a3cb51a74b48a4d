"""Draw a leaderboard as an SVG: `python docs/leaderboard_picture.py BOARD.csv PICTURE.svg`."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fairbench import load_leaderboard
from fairbench.report import table


def main(board: str, picture: str) -> None:
    """Render the table that `fairbench leaderboard show` prints and save it."""
    console = Console(record=True, width=106, file=io.StringIO())
    console.print(Text(table.leaderboard(load_leaderboard(board))), soft_wrap=True)
    console.save_svg(picture, title=f"fairbench leaderboard show {Path(board).parent.name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
