"""The committed leaderboards: the page that says who leads each, and the pages of `fairbench leaderboard html`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sphinx.application import Sphinx

from building.links import DOCS
from building.markdown import escaped, table
from fairbench.leaderboard.lookup import committed_folder, versions_of
from fairbench.report.html.boards import Board, read_board
from fairbench.report.html.page import unbroken
from fairbench.report.html.pages import write_pages
from fairbench.report.html.site import pages
from fairbench.report.text.answer import sentence

__all__ = ["committed", "link", "page", "write_site"]

FOLDER = "boards"  # on the site; the pages there are no sources of Sphinx, so links to them are plain HTML
FIRST = "digits"  # the main benchmark
TITLE = """# Leaderboards

Methods are ranked by their worst class under the union of all attacks of a board. The page of a board has the table
with the interval of every rank, the methods by classes, plots of the trade-offs, a page per method, and the steps that
put a method on it. `fairbench leaderboard html SUITE` makes the same pages of your own results.
"""
NOTES = """Figures after ± are standard deviations over seeds. Figures of two versions are not comparable, because a
changed protocol opens a new version. [What may be concluded](../conclusions.md) lists the sentences that a board
supports, and [Start here](../start.md#how-to-read-the-leaderboard) explains the headings. [Submit
results](../submit.md) has the steps for a pull request, and [the protocol](../protocol.md#how-to-cite) says how to cite
a board.
"""


@cache
def committed() -> tuple[Board, ...]:
    """Return every committed board, the main benchmark first and of each suite the newest version first."""
    folders = sorted(committed_folder().iterdir(), key=lambda folder: (folder.name != FIRST, folder.name))
    return tuple(read_board(path) for folder in folders for path in versions_of(folder))


def link(board: Board, top: str, method: str = "") -> str:
    """Return a link to a board's page, or to a method's on it; `top` leads from the linking page to the front page."""
    address = board.href(method) if method else f"{board.stem}.html"
    return f'<a href="{top}{FOLDER}/{address}">{escaped(board.name)} {board.version}</a>'


def page() -> str:
    """Return the page that lists the boards: who leads, and where to read more."""
    rows = []
    for board in committed():
        leads = "" if board.ranking.empty else escaped(unbroken(sentence(board.ranking)))
        about = next(
            (name for name in (board.name, board.name.partition("-")[0]) if (DOCS / f"{name}.md").exists()), ""
        )
        csv = f'<a href="../{FOLDER}/{board.stem}.csv" download>CSV</a>'
        rows.append([link(board, "../"), leads, ", ".join([csv, f"[notes](../{about}.md)"] if about else [csv])])
    return f"{TITLE}\n{table(['board', 'result', 'more'], rows)}\n{NOTES}"


def write_site(app: Sphinx, error: Exception | None) -> None:
    """Write the pages of the boards beside those of the documentation."""
    if error is None and app.builder.format == "html":
        write_pages(dict(pages(committed(), home="../index.html")), Path(app.outdir) / FOLDER)
