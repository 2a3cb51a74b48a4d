"""The heatmaps and charts on the page of one leaderboard, as plain values for the template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from fairbench.leaderboard.classes import class_columns
from fairbench.report.html.boards import Board
from fairbench.report.html.charts import NARROW, WIDTH, Chart, Mark, dots, scatter
from fairbench.report.html.page import Values
from fairbench.report.standings import drawn, standings_of

__all__ = ["charts", "heatmaps", "in_order"]


def heatmaps(board: Board) -> dict[str, list[Values]]:
    """Return, per attack on the best checkpoint, a row per method: name, page, class accuracies and their minimum.

    Methods are in the order of the ranking, so that those without a rank come after the others.
    """
    columns = class_columns(list(board.frame))
    order = {method: place for place, method in enumerate(board.ranking.get("method", ()))}
    best = board.frame[board.frame["checkpoint"] == "best"]
    found = {}
    for attack in reversed(in_order(best["attack"])) if columns else ():
        rows = standings_of(board.groups, attack=attack).to_dict("records")
        rows.sort(key=lambda row: order.get(row["method"], len(order)))
        found[attack] = [
            {
                "method": row["method"],
                "href": board.href(row["method"]),
                "role": row["role"],
                "shares": [row[name] for name in columns],
                "least": min((row[name] for name in columns if row[name] == row[name]), default=None),
            }
            for row in rows
        ]
    return found


def charts(board: Board) -> dict[str, list[Chart]]:
    """Return the charts of the union on the best checkpoint, each for a wide screen and for a phone.

    They are worst, clean, nsd and cost; none where the board has no such rows.
    """
    if board.standings.empty:
        return {}
    leader = next(iter(board.ranking["method"]))
    rows: list[Values] = drawn(board.standings).to_dict("records")  # type: ignore[assignment]
    rows.sort(key=lambda row: (row["method"] != leader, not row["front"]))  # labels are placed in this order
    sizes = [_charts(board, rows, width) for width in (WIDTH, NARROW)]
    return {name: [size[name] for size in sizes] for name in sizes[0]}


def _charts(board: Board, rows: Sequence[Values], width: int) -> dict[str, Chart]:
    front = [row["method"] for row in sorted(rows, key=lambda row: row["average"]) if row["front"]]
    worst, robust = "worst class under the union, %", "average under the union, %"
    across = {"worst": ("average", robust), "clean": ("clean", "clean average, %")}
    found = {
        name: scatter(
            [_mark(board, row, x, "worst" if name == "worst" else "average") for row in rows],
            x_title=title,
            y_title=worst if name == "worst" else robust,
            front=front if name == "worst" else (),
            width=width,
        )
        for name, (x, title) in across.items()
    }
    found["cost"] = scatter(
        [_mark(board, row, "forwards", "worst") for row in rows if row["forwards"] > 0],
        x_title="forward passes of the training, images",
        y_title=worst,
        log_x=True,
        width=width,
    )
    even = sorted((row for row in rows if row["nsd"] == row["nsd"]), key=lambda row: row["nsd"])
    found["nsd"] = dots(
        [(row["method"], [_nsd(board, row)]) for row in even],
        x_title="NSD under the union (lower is more even)",
        width=width,
    )
    return found


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
    """Distinct names in the order of the board, which is that of the protocol with the union last."""
    return list(map(str, names.dropna().unique()))
