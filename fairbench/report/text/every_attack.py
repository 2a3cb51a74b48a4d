"""A leaderboard as text for a terminal with a row for every attack."""

from __future__ import annotations

import pandas as pd
from rich.markup import escape
from rich.table import Table

from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard.changed import why_unranked
from fairbench.leaderboard.classes import SHARED, named_worst
from fairbench.leaderboard.columns import AGGREGATES
from fairbench.leaderboard.ranking import over_seeds, ranking
from fairbench.leaderboard.unrounded import unrounded
from fairbench.report.text.cells import counted_seeds, interval_in_percent, three_decimals, with_deviation
from fairbench.report.text.stdout import as_text, wrapped

__all__ = ["every_attack"]


def every_attack(board: pd.DataFrame, *, ranked: bool = True) -> str:
    """Render a board: a block per method, ranked by the worst class under the union, a row per attack.

    Figures are in percent: of a single run with its 95 % interval, over several seeds with the standard deviation. Rows
    of smoke tests have no rank, and neither has a board that is not `ranked` because its settings are not the suite's.
    Methods without a rank come after those with one, teachers last. Where an attack covers a part of the test images, a
    column says on how many images each row stands.
    """
    board = unrounded(board)
    table = Table(title=_title(board, ranked), title_justify="left")
    for heading, side in (("#", "right"), ("method", "left"), ("checkpoint", "left"), ("attack", "left")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for heading in ("average %", "worst class %", "class", "NSD"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    partly = board.loc[board["checkpoint"] == "best", "n"].nunique() > 1
    if partly:
        table.add_column("n", justify="right")
    places, shared = ranking(board, ranked=ranked), False
    for method, rank in zip(places["method"], places["rank"], strict=True):
        rows = board[(board["method"] == method) & (board["checkpoint"] == "best")]
        for number, attack in enumerate(dict.fromkeys(rows["attack"])):
            under = rows[rows["attack"] == attack]
            cells = [*_cells(under), *([str(under["n"].max())] if partly else [])]
            first, shared = number == 0, shared or " +" in cells[2]
            place = str(rank) if first and not pd.isna(rank) else ""
            name = escape(f"{method}{_red(rows)}") if first else ""
            style = "bold" if attack == UNION else ""
            table.add_row(place, name, "best" if first else "", escape(attack), *cells, style=style)
        table.add_section()
    return "\n".join([as_text(table), *([wrapped(SHARED)] if shared else [])])


def _red(rows: pd.DataFrame) -> str:
    """The sanity checks that are red in any run, as a suffix of the method's name."""
    texts = list(rows["flags"].dropna()) if "flags" in rows else []
    red = dict.fromkeys(name for text in texts for name in str(text).split(";") if name not in ("", "none"))
    return f" (red flag: {', '.join(red)})" if red else ""


def _cells(rows: pd.DataFrame) -> tuple[str, str, str, str]:
    runs = rows[~rows["seed"].isin(AGGREGATES)]
    if len(runs) == 1:
        row = runs.iloc[0]
        average = interval_in_percent(row["average"], row["average_lo"], row["average_hi"])
        return (
            average,
            interval_in_percent(row["worst"], row["worst_lo"], row["worst_hi"]),
            escape(named_worst(runs)),
            three_decimals(row["nsd"]),
        )
    mean, std = (figures.iloc[0] for figures in over_seeds(rows, ["average", "worst", "nsd"]))
    average, worst = (with_deviation(100 * mean[name], 100 * std[name], ".1f") for name in ("average", "worst"))
    return average, worst, escape(named_worst(runs)), with_deviation(mean["nsd"], std["nsd"], ".3f")


def _title(board: pd.DataFrame, ranked: bool) -> str:
    first = board.iloc[0]
    reason = why_unranked(board, ranked=ranked)
    kind = f" ({escape(reason)})" if reason else ""
    return (
        f"{escape(str(first['suite']))}{kind}: dataset {escape(str(first['dataset']))}, protocol {first['protocol']}, "
        f"{counted_seeds(board)}, n = {board['n'].max()}"
    )
