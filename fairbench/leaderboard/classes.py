"""The class accuracies of a leaderboard, from its own columns or, with many classes, from the file beside it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairbench.errors import CorruptFile
from fairbench.files import open_regular
from fairbench.leaderboard.columns import AGGREGATES, is_class
from fairbench.leaderboard.rules import SLACK

__all__ = ["SHARED", "class_columns", "named_worst", "shared_worst", "with_classes", "with_shared"]

SHARED = "Class +N: N further classes are as low in a run as the worst one that is named."
KEYS = ["protocol", "method", "seed", "checkpoint", "attack", "run_id"]
MAX_IMAGES = 2**53  # whole numbers of float64


def class_columns(names: Sequence[Any]) -> list[str]:
    """Return the columns with class accuracies, in the order of the classes."""
    numbers = [int(name[6:]) for name in names if str(name).startswith("class_") and is_class(str(name))]
    return [f"class_{number}" for number in sorted(numbers)]


def shared_worst(accuracies: NDArray[np.float64], named: int) -> int:
    """Count the classes that are as low as the worst one of a run, less the `named` ones.

    `accuracies` is float64 [runs, C], nan where a class has no image.
    """
    known = accuracies[~np.isnan(accuracies).all(axis=1)]
    lowest = known == np.nanmin(known, axis=1, keepdims=True, initial=np.inf)
    return max(int(lowest.any(axis=0).sum()) - named, 0)


def named_worst(runs: pd.DataFrame) -> str:
    """Name the worst class of every run, as in `cat, deer +2`: two further classes are as low in one of the runs."""
    names = [str(name) for name in runs["worst_class"].dropna().unique() if name]
    shared = shared_worst(runs[class_columns(list(runs))].to_numpy(np.float64), len(names))
    return with_shared(", ".join(names), shared)


def with_shared(names: str, shared: int) -> str:
    """Return the names of worst classes with the number of further classes that are as low, if there are any."""
    return f"{names} +{shared}" if shared else names


def with_classes(path: Path, board: pd.DataFrame) -> pd.DataFrame:
    """Return the leaderboard with its class columns; above 20 classes they are in `v<N>.classes.csv` beside it.

    If that file is absent the leaderboard is returned unchanged. Raises CorruptFile for a file with other rows or other
    columns, and for classes that cannot be or do not give the leaderboard's figures; Missing for one that is no regular
    file.
    """
    beside = path.with_name(f"{path.stem}.classes.csv")
    if class_columns(list(board)) or not beside.exists():
        return board
    try:
        with open_regular(beside) as file:
            found = pd.read_csv(file, dtype=defaultdict(lambda: "float64", dict.fromkeys(KEYS, "string")))
        if odd := [str(name) for name in found if name not in KEYS and not is_class(str(name))]:
            raise ValueError(f"column {odd[0]!r:.80}")
        merged = board.merge(found, on=KEYS, how="left", validate="one_to_one").copy()  # joined, not column by column
        _check_classes(merged)
        return merged
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise CorruptFile(f"{beside}: not the classes of {path.name}: {' '.join(str(error).split())}") from None


def _check_classes(board: pd.DataFrame) -> None:
    """Raise ValueError for accuracies outside [0,1], for parts of images, and for classes that give other figures."""
    names = class_columns(list(board))
    shares = board[names].to_numpy(np.float64)
    counts = board.reindex(columns=[f"n_{name}" for name in names]).to_numpy(np.float64)
    _refuse(board, "an accuracy", names, shares, (shares < 0) | (shares > 1))
    broken = (counts < 0) | (counts > MAX_IMAGES) | (np.floor(counts) < counts)
    _refuse(board, "a number of images", [f"n_{name}" for name in names], counts, broken)
    counts = np.where(np.isfinite(shares), np.nan_to_num(counts), 0)
    told = ~board["seed"].isin(AGGREGATES).to_numpy() & (counts > 0).any(axis=1)
    shares, counts, rows = shares[told], counts[told], board[told]
    given = {
        "n": counts.sum(axis=1),
        "worst": np.where(counts > 0, shares, math.inf).min(axis=1),
        "average": (np.nan_to_num(shares) * counts).sum(axis=1) / counts.sum(axis=1),
    }
    for name, values in given.items():
        stated = rows[name].to_numpy(np.float64, na_value=math.nan)
        _refuse(rows, "what its classes give", [name], stated[:, None], np.abs(stated - values)[:, None] > SLACK)


def _refuse(
    board: pd.DataFrame, what: str, names: Sequence[str], values: NDArray[np.float64], wrong: NDArray[np.bool_]
) -> None:
    """Raise ValueError for the first of `values` [rows, names] that is `wrong` [rows, names]: it is not `what`."""
    if wrong.any():
        row, place = (int(index) for index in np.argwhere(wrong)[0])
        key = " ".join(str(board[name].iloc[row]) for name in ("method", "seed", "checkpoint", "attack"))
        raise ValueError(f"{key}: {names[place]} {values[row, place]:g} is not {what}")
