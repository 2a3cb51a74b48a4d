"""Markdown that generated pages are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["escaped", "table"]


def escaped(text: object) -> str:
    """Return plain text such that Markdown shows it as it is; spans in backticks stay code."""
    parts = re.split(r"(`[^`]*`)", str(text))
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>\[\]$~#])", r"\\\1", part) for part in parts)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table of cells that are Markdown already."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"
