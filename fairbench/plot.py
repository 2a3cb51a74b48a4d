"""Figures of a leaderboard for papers and notebooks: each function takes `load_leaderboard`'s frame.

Each returns a matplotlib figure and leaves pyplot's state alone; `figure.savefig("board.svg")` saves it. Of teachers
and warm starts only the teacher is drawn among the methods, because a natural model would stretch every axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from fairbench.evaluation.report import escape_mathtext
from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard.classes import class_columns
from fairbench.report.flows import flow_matrix
from fairbench.report.standings import drawn, standings

__all__ = ["clean_robust", "cost", "flow", "heatmap", "nsd", "worst_against_average"]

# Blue, vermillion and grey of Okabe and Ito are distinct for any colour vision; markers distinguish them in print.
MEMBER, FRONT, ROLE = ("#0072B2", "o"), ("#D55E00", "D"), ("#767676", "s")
SCALE = "viridis"


def heatmap(
    board: pd.DataFrame,
    *,
    attack: str = UNION,
    checkpoint: str = "best",
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Draw methods by classes: each cell the accuracy of a class under one attack, mean over seeds, in percent.

    Methods come best worst class first. Raises UnknownName for an attack or a checkpoint that the board lacks.
    """
    table = standings(board, attack=attack, checkpoint=checkpoint)
    columns = class_columns(list(table))
    names = list(class_names or [name.removeprefix("class_") for name in columns])
    figure, axes = _axes(2 + 0.45 * len(columns), 1.2 + 0.28 * len(table))
    _matrix(axes, 100 * table[columns].to_numpy(dtype=np.float64), list(table["method"]), names)
    axes.set(xlabel="class", title=f"class-wise accuracy under {escape_mathtext(attack)}, %")
    return figure


def worst_against_average(board: pd.DataFrame, *, attack: str = UNION, checkpoint: str = "best") -> Figure:
    """Draw worst class against average with their spreads, and the Pareto front of the methods.

    Spreads are one standard deviation over seeds, or the 95 % interval of a single one. Raises UnknownName.
    """
    table = drawn(standings(board, attack=attack, checkpoint=checkpoint))
    figure, axes = _axes(7, 5)
    _scatter(axes, table, "average", "worst")
    front = table[table["front"]].sort_values("average")
    axes.plot(100 * front["average"], 100 * front["worst"], color=FRONT[0], linewidth=1, label="Pareto front")
    axes.set(
        xlabel=f"average under {escape_mathtext(attack)}, %", ylabel=f"worst class under {escape_mathtext(attack)}, %"
    )
    axes.legend()
    return figure


def clean_robust(board: pd.DataFrame, *, attack: str = UNION, checkpoint: str = "best") -> Figure:
    """Draw the average under an attack against the average without one; raises UnknownName."""
    table = drawn(standings(board, attack=attack, checkpoint=checkpoint))
    figure, axes = _axes(7, 5)
    _scatter(axes, table, "clean", "average")
    axes.set(xlabel="clean average, %", ylabel=f"average under {escape_mathtext(attack)}, %")
    return figure


def nsd(board: pd.DataFrame, *, attack: str = UNION, checkpoint: str = "best") -> Figure:
    """Draw each method's NSD (deviation over classes by mean), the most even on top; raises UnknownName."""
    table = drawn(standings(board, attack=attack, checkpoint=checkpoint)).sort_values("nsd", ascending=False)
    figure, axes = _axes(7, 1 + 0.25 * len(table))
    for place, row in enumerate(_rows(table)):
        colour, marker = _look(row)
        axes.errorbar(row.nsd, place, xerr=_bars(row.nsd, row.nsd_low, row.nsd_high), fmt=marker, color=colour)
    axes.set_yticks(range(len(table)), list(map(escape_mathtext, table["method"])))
    axes.set(xlabel=f"NSD under {escape_mathtext(attack)} (lower is more even)", xlim=(0, None))
    return figure


def cost(board: pd.DataFrame, *, attack: str = UNION, checkpoint: str = "best") -> Figure:
    """Draw worst class against the forward passes of the training, on a logarithmic axis; raises UnknownName.

    Passes, unlike seconds, do not depend on the machine and on what else ran on it.
    """
    table = drawn(standings(board, attack=attack, checkpoint=checkpoint))
    figure, axes = _axes(7, 5)
    _scatter(axes, table[table["forwards"] > 0], "forwards", "worst", scale=1)
    axes.set(
        xlabel="images forward in training", ylabel=f"worst class under {escape_mathtext(attack)}, %", xscale="log"
    )
    return figure


def flow(
    board: pd.DataFrame,
    method: str,
    *,
    results: str | Path = "results",
    attack: str = UNION,
    checkpoint: str = "best",
) -> Figure:
    """Draw the classes predicted under attack: rows are true classes, columns predicted ones, cells percent of the row.

    Verdicts come from the run folders below `results`, all seeds of the board together. Raises UnknownName for a
    method, an attack or a checkpoint that is not on the board, Missing where the run folders are not there.
    """
    shares, names = flow_matrix(board, method, Path(results), attack=attack, checkpoint=checkpoint)
    figure, axes = _axes(2 + 0.45 * len(names), 1.5 + 0.4 * len(names))
    _matrix(axes, 100 * shares, names, names)
    axes.set(
        xlabel="predicted",
        ylabel="true",
        title=f"{escape_mathtext(method)} under {escape_mathtext(attack)}, % of the class",
    )
    return figure


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _scatter(axes: Axes, table: pd.DataFrame, across: str, up: str, scale: float = 100) -> None:
    """Draw points with their error bars; methods on the front and teachers are named."""
    for row in _rows(table):
        colour, marker = _look(row)
        x, y = scale * getattr(row, across), 100 * getattr(row, up)
        ends = [getattr(row, f"{across}{end}", np.nan) * scale for end in ("_low", "_high")]
        tops = [getattr(row, f"{up}{end}") * 100 for end in ("_low", "_high")]
        style: dict[str, Any] = {"fmt": marker, "color": colour, "elinewidth": 0.6, "markersize": 5}
        axes.errorbar(x, y, xerr=_bars(x, *ends), yerr=_bars(y, *tops), **style)
        if row.front or row.role:
            axes.annotate(escape_mathtext(row.method), (x, y), (5, 5), textcoords="offset points", fontsize="small")


def _matrix(axes: Axes, percent: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str]) -> None:
    image = axes.imshow(percent, cmap=SCALE, vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(percent):
        if not np.isnan(value):
            ink = "black" if value > 50 else "white"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize="small")
    axes.set_xticks(range(len(columns)), list(map(escape_mathtext, columns)), rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), list(map(escape_mathtext, rows)))
    axes.figure.colorbar(image, ax=axes, label="%")


def _rows(table: pd.DataFrame) -> Iterator[Any]:
    """Yield rows with their columns as attributes."""
    yield from table.itertuples()


def _look(row: Any) -> tuple[str, str]:
    return ROLE if row.role else FRONT if row.front else MEMBER


def _bars(value: float, low: float, high: float) -> ArrayLike | None:
    """Return the lengths of the error bar to both sides; None without a spread."""
    return None if np.isnan(low) else [[max(0.0, value - low)], [max(0.0, high - value)]]
