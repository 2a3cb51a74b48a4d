"""The text of table cells."""

from __future__ import annotations

from typing import Any

import pandas as pd

__all__ = ["Headings", "in_percent"]

Headings = list[tuple[str, bool]]


def in_percent(value: Any) -> str:
    """Write a fraction as a percentage with one decimal; a missing value is empty."""
    return "" if value is None or pd.isna(value) else f"{100 * value:.1f}"
