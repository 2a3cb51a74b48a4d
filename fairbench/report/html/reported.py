"""Figures that papers report, as the pages of a site show them on request: a table apart, each row with its source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from fairbench.leaderboard.published import registered_as, reported_on
from fairbench.report.html.page import Values

__all__ = ["of_method", "on_board"]

# Column, heading and whether it is a number, percent as printed but for the NSD.
COLUMNS = (
    ("method", "method, as reported", False),
    ("dataset", "dataset", False),
    ("architecture", "network", False),
    ("attack", "attack", False),
    ("avg", "average %", True),
    ("worst", "worst class %", True),
    ("nsd", "NSD", True),
    ("worst_definition", "worst is", False),
    ("source", "reported by", False),
    ("note", "remarks", False),
)


def on_board(published: pd.DataFrame | None, dataset: str) -> Values:
    """Return the table of what papers report on a board's dataset; empty where they report nothing."""
    return {} if published is None else _table(reported_on(published, dataset))


def of_method(published: pd.DataFrame | None, name: str) -> Values:
    """Return the table of what papers report of a registered method, on any dataset; empty where it is nothing."""
    return {} if published is None else _table(registered_as(published, name))


def _table(rows: pd.DataFrame) -> Values:
    """Headings with their kinds, rows of texts, and the datasets they are on."""
    if rows.empty:
        return {}
    texts = rows.astype(object).where(rows.notna(), "")
    cells = [[_text(name, row) for name, _, _ in COLUMNS] for row in texts.to_dict("records")]
    headings = [{"title": title, "number": number} for _, title, number in COLUMNS]
    return {"headings": headings, "rows": cells, "datasets": list(dict.fromkeys(rows["dataset"]))}


def _text(name: str, row: Mapping[Any, Any]) -> str:
    if name != "source":
        return str(row[name])
    origin = [row["source"], row["venue"], f"arXiv {row['arxiv']}" if row["arxiv"] else "", row["table"]]
    return ", ".join(filter(None, origin))
