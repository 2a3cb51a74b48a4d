"""The width of the terminal that a command prints to, and text that fits it."""

from __future__ import annotations

import shutil
import sys
import textwrap

__all__ = ["PIPED", "beside", "terminal_width"]

PIPED = 320  # width of a file or a pipe, which has no window
_LEAST = 20  # columns of a text beside its label


def terminal_width() -> int:
    """Return the columns of the terminal on stdout (or $COLUMNS), and PIPED where stdout is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPED


def beside(label: str, text: str) -> str:
    """Write a text behind a label. On a terminal a text that is too long for the line goes on below its beginning."""
    if not text or not sys.stdout.isatty():
        return f"{label}{text}"
    width = max(terminal_width(), len(label) + _LEAST)
    indent = " " * len(label)
    return textwrap.fill(
        text, width, initial_indent=label, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
