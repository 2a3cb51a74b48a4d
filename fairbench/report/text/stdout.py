"""Text in the width, the colours and the encoding that stdout has."""

from __future__ import annotations

import io
import sys
import textwrap

from rich.console import Console
from rich.table import Table

from fairbench.report.text.width import terminal_width

__all__ = ["as_text", "encodable", "wrapped"]


def as_text(*renderables: Table) -> str:
    """Render for stdout: in colour on a terminal, plain and wide elsewhere. Long cells are folded, never truncated."""
    terminal = sys.stdout.isatty()
    for table in renderables:
        for column in table.columns:
            column.overflow = "fold"
    # The encoding of the output decides whether rich draws boxes in Unicode or in ASCII.
    output = io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding or "utf-8")
    # Without a height rich takes any dumb terminal, as of an editor or of CI, to be 80 columns wide.
    console = Console(
        file=output,
        width=terminal_width(),
        height=25,
        force_terminal=terminal,
        color_system="auto" if terminal else None,
    )
    with console.capture() as capture:
        console.print(*renderables)
    lines = [line.rstrip() for line in capture.get().rstrip("\n").split("\n")]
    return encodable("\n".join(lines))


def wrapped(text: str) -> str:
    """Wrap a sentence between words at the width of the terminal; a pipe gets it on one line."""
    if not sys.stdout.isatty():
        return encodable(text)
    lines = textwrap.wrap(text, terminal_width(), break_long_words=False, break_on_hyphens=False)
    return encodable("\n".join(lines))


def encodable(text: str) -> str:
    """Replace ±, × and – by ASCII of the same width where the encoding of stdout lacks them."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return text.replace(" ± ", " +-").replace("×", "x").replace("–", "-")
    return text
