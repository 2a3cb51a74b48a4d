"""The heatmaps and charts on the page of one leaderboard, as plain values for the template."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fairbench.leaderboard.classes import class_columns
from fairbench.report.html.boards import Board
from fairbench.report.html.charts import Chart, Mark, dots, scatter
from fairbench.report.html.page import Values
from fairbench.report.standings import drawn, standings_of

__all__ = ["charts", "heatmaps", "in_order"]


def heatmaps(board: Board) -> dict[str, list[Values]]:
    """Return, per attack on the best checkpoint, a row per method: its name, page and class accuracies."""
    columns = class_columns(list(board.frame))
    best = board.frame[board.frame["checkpoint"] == "best"]
    found = {}
    for attack in reversed(in_order(best["attack"])) if columns else ():
        rows = standings_of(board.groups, attack=attack).to_dict("records")
        found[attack] = [
            {
                "method": row["method"],
                "href": board.href(row["method"]),
                "role": row["role"],
                "shares": [row[name] for name in columns],
            }
            for row in rows
        ]
    return found


def charts(board: Board) -> dict[str, Chart]:
    """Return the charts of the union on the best checkpoint: worst, clean, nsd and cost."""
    standing = standings_of(board.groups)
    if standing.empty:
        return {}
    rows: list[Values] = drawn(standing).to_dict("records")  # type: ignore[assignment]
    front = [row["method"] for row in sorted(rows, key=lambda row: row["average"]) if row["front"]]
    worst, robust = "worst class under the union, %", "average under the union, %"
    return {
        "worst": scatter(
            [_mark(board, row, "average", "worst") for row in rows], x_title=robust, y_title=worst, front=front
        ),
        "clean": scatter(
            [_mark(board, row, "clean", "average") for row in rows], x_title="clean average, %", y_title=robust
        ),
        "cost": scatter(
            [_mark(board, row, "forwards", "worst") for row in rows if row["forwards"] > 0],
            x_title="images that went forward in training",
            y_title=worst,
            log_x=True,
        ),
        "nsd": dots(
            [(row["method"], [_nsd(board, row)]) for row in sorted(rows, key=lambda row: row["nsd"])],
            x_title="NSD under the union: lower is more even",
        ),
    }


def _mark(board: Board, row: Values, across: str, up: str) -> Mark:
    x_scale = 1 if across == "forwards" else 100
    ends = (row.get(f"{across}_low", float("nan")) * x_scale, row.get(f"{across}_high", float("nan")) * x_scale)
    x, y = x_scale * row[across], 100 * row[up]
    return Mark(
        x,
        y,
        row["method"],
        f"{row['method']}: {x:,.1f} across, {y:.1f} % up".replace(".0 across", " across"),
        _kind(row),
        board.href(row["method"]),
        x_ends=ends,
        y_ends=(100 * row[f"{up}_low"], 100 * row[f"{up}_high"]),
    )


def _nsd(board: Board, row: Values) -> Mark:
    text = f"{row['method']}: NSD {row['nsd']:.3f}"
    return Mark(
        row["nsd"], 0, row["method"], text, _kind(row), board.href(row["method"]), (row["nsd_low"], row["nsd_high"])
    )


def _kind(row: Values) -> str:
    return "role" if row["role"] else "front" if row["front"] else "member"


def in_order(names: pd.Series[Any]) -> list[str]:
    """Return distinct names in the board's order: that of the protocol, the union last."""
    return list(map(str, names.dropna().unique()))
