"""The spread of a leaderboard's figures over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fairbench.leaderboard.classes import class_columns
from fairbench.leaderboard.columns import ROLES
from fairbench.statistics.moderated import Spread, board_spread, class_ratio

__all__ = ["class_ratios", "spread_of"]


def spread_of(runs: pd.DataFrame, figure: str, methods: Sequence[str] | None = None) -> Spread:
    """Return the spread over seeds of a figure, from the rows of runs under one attack on one checkpoint.

    Teachers and warm starts are left out; `methods` selects among the rest.
    """
    own = runs[~runs["method"].isin(ROLES) & runs[figure].notna()]
    if methods is not None:
        own = own[own["method"].isin(list(methods))]
    return board_spread([group[figure].to_numpy(dtype="float64") for _, group in own.groupby("method")])


def class_ratios(runs: pd.DataFrame) -> dict[str, float]:
    """Return the `class_ratio` of every method, from the rows of runs under one attack on one checkpoint."""
    classes = class_columns(list(runs))
    middle = [spread_of(runs, name).middle for name in classes]
    own = runs.groupby("method")[classes].var(ddof=1).fillna(0.0)
    return {str(method): class_ratio(row, middle) for method, row in zip(own.index, own.to_numpy(), strict=True)}
