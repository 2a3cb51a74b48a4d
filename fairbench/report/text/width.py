"""The width of the terminal that a command prints to."""

from __future__ import annotations

import shutil
import sys

__all__ = ["PIPED", "terminal_width"]

PIPED = 320  # width of a file or a pipe, which has no window


def terminal_width() -> int:
    """Return the columns of the terminal on stdout (or $COLUMNS), and PIPED where stdout is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPED
