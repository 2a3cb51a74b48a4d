"""The figures of a leaderboard before they were rounded to four decimals.

An accuracy is a whole number of images divided by a number that the leaderboard holds, so it can be restored. Figures
for readers are then rounded once; rounding a rounded figure again would change the last digit of some.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fairbench.leaderboard.classes import class_columns
from fairbench.leaderboard.columns import AGGREGATES, FIGURES
from fairbench.statistics import figures

__all__ = ["unrounded"]

RESTORED = 5000  # number of images above which four decimals do not identify a count
ROUNDING = 5.1e-5
GROUP = ["method", "checkpoint", "attack", "recipe_hash", "architecture"]


def unrounded(board: pd.DataFrame) -> pd.DataFrame:
    """Return the leaderboard with accuracies restored to whole images, and rows over seeds computed from these.

    Figures of a row without classes, and rows over seeds whose runs are not on the leaderboard, stay unchanged.
    """
    if board.empty:
        return board
    found = board.copy()
    runs = ~found["seed"].isin(AGGREGATES)
    found.loc[runs, "average"] = _restored(found.loc[runs, "average"], found.loc[runs, "n"])
    columns = class_columns(list(found))
    for name in columns:
        if f"n_{name}" in found:
            found.loc[runs, name] = _restored(found.loc[runs, name], found.loc[runs, f"n_{name}"])
    if columns and f"n_{columns[0]}" in found:
        for _, rows in found[runs].groupby("attack", sort=False):  # an attack on a part has other numbers of images
            _refigure(found, found.index.to_series().isin(rows.index), columns)
    _reaverage(found, runs, [name for name in (*FIGURES, *columns) if name in found])
    return found


def _restored(share: pd.Series[float], images: pd.Series[float]) -> pd.Series[float]:
    """Return the share of whole images that rounds to this one; an impossible share stays unchanged."""
    counted = images.astype("float64")
    whole = (share * counted).round() / counted
    return whole.where((counted <= RESTORED) & ((whole - share).abs() <= ROUNDING), share)


def _refigure(board: pd.DataFrame, runs: pd.Series[bool], columns: Sequence[str]) -> None:
    """Compute the figures of classes again, if every class with images has an accuracy."""
    rows = board.loc[runs, list(columns)].to_numpy(dtype=np.float64)
    counts = board.loc[runs, [f"n_{name}" for name in columns]].to_numpy(dtype=np.float64)
    if not len(rows) or np.isnan(counts).any() or (counts != counts[0]).any() or counts.max() > RESTORED:
        return
    shares, images = rows[:, counts[0] > 0], counts[0][counts[0] > 0].astype(np.int64)
    if not len(images) or np.isnan(shares).any():
        return
    computed = {
        "average": shares @ images / images.sum(),
        "worst": shares.min(axis=1),
        "worst10": figures.worst10(shares),
        "nsd": figures.normalized_deviation(shares),
    }
    computed |= {"nsd_corrected": figures.nsd_corrected(shares, images)}
    computed |= {"gap": figures.gap(shares), "gini": figures.gini(shares)}
    for name, values in computed.items():
        if name in board:
            board.loc[runs, name] = np.where(board.loc[runs, name].isna(), np.nan, values)


def _reaverage(board: pd.DataFrame, runs: pd.Series[bool], names: Sequence[str]) -> None:
    keys = [name for name in GROUP if name in board]
    grouped = board[runs].groupby(keys, dropna=False, observed=True)[list(names)]
    for seed, table in (("mean", grouped.mean()), ("std", grouped.std(ddof=1))):
        rows = board["seed"] == seed
        if not rows.any():
            continue
        wanted = pd.MultiIndex.from_frame(board.loc[rows, keys])
        values = table.reindex(wanted).to_numpy(dtype=np.float64)
        own = board.loc[rows, list(names)].to_numpy(dtype=np.float64)
        known = np.asarray(wanted.isin(table.index))[:, None] & ~np.isnan(own)
        board.loc[rows, list(names)] = np.where(known, values, own)
