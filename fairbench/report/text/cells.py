"""The text of table cells."""

from __future__ import annotations

from typing import Any

import pandas as pd

__all__ = ["Headings", "in_percent", "interval_in_percent", "three_decimals"]

Headings = list[tuple[str, bool]]


def in_percent(value: Any) -> str:
    """Write a fraction as a percentage with one decimal; a missing value is empty."""
    return "" if value is None or pd.isna(value) else f"{100 * value:.1f}"


def interval_in_percent(value: float, low: float, high: float) -> str:
    """Write a fraction and its interval as percentages with one decimal."""
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def three_decimals(value: float) -> str:
    """Write a number with three decimals; a missing one is a dash."""
    return "-" if pd.isna(value) else f"{value:.3f}"
