"""The text of table cells."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fairbench.leaderboard.columns import AGGREGATES, ROLES

__all__ = ["Headings", "counted_seeds", "in_percent", "interval_in_percent", "three_decimals", "with_deviation"]

Headings = list[tuple[str, bool]]


def counted_seeds(board: pd.DataFrame) -> str:
    """Say how many seeds the methods of a leaderboard have, such as "1 seed" or "3 to 5 seeds".

    Teachers and warm starts count only where the board has no method.
    """
    runs = board[~board["seed"].isin(AGGREGATES)]
    methods = runs[~runs["method"].isin(ROLES)]
    counts = (runs if methods.empty else methods).groupby("method")["seed"].nunique()
    fewest, most = (int(counts.min()), int(counts.max())) if len(counts) else (0, 0)
    counted = str(most) if fewest == most else f"{fewest} to {most}"
    return f"{counted} seed{'' if counted == '1' else 's'}"


def in_percent(value: Any) -> str:
    """Write a fraction as a percentage with one decimal; a missing value is empty."""
    return "" if value is None or pd.isna(value) else f"{100 * value:.1f}"


def interval_in_percent(value: float, low: float, high: float) -> str:
    """Write a fraction and its interval as percentages with one decimal."""
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def with_deviation(value: float, deviation: float, form: str) -> str:
    """Write a number and its deviation in one format; a missing number is a dash, a missing deviation is left out."""
    if pd.isna(value):
        return "-"
    return f"{value:{form}}" if pd.isna(deviation) else f"{value:{form}} ± {deviation:{form}}"


def three_decimals(value: float) -> str:
    """Write a number with three decimals; a missing one is a dash."""
    return "-" if pd.isna(value) else f"{value:.3f}"
