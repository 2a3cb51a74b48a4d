"""Options that the scripts share."""

from __future__ import annotations

import argparse
import math
from typing import NoReturn

__all__ = ["Parser", "count", "limits", "positive"]


def positive(text: str) -> float:
    """Read a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def count(text: str) -> int:
    """Read an integer from 1."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected an integer from 1, got {text!r}")
    return int(text)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def limits(parser: argparse.ArgumentParser) -> None:
    """Add the limits of what is packed."""
    parser.add_argument("--max-files", type=count, default=4, metavar="N", help="archives at most (default: 4)")
    parser.add_argument(
        "--max-mb", type=positive, default=16.0, metavar="S", help="megabytes an archive at most (default: 16)"
    )
