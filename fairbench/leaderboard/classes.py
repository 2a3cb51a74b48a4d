"""The class accuracies of a leaderboard, from its own columns or, with many classes, from the file beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairbench.errors import CorruptFile
from fairbench.files import open_regular

__all__ = ["SHARED", "class_columns", "named_worst", "shared_worst", "with_classes", "with_shared"]

SHARED = "Class +N: N further classes are as low in a run as the worst one that is named."
KEYS = ["protocol", "method", "seed", "checkpoint", "attack", "run_id"]


def class_columns(names: Sequence[Any]) -> list[str]:
    """Return the columns with class accuracies, in the order of the classes."""
    numbers = [int(name[6:]) for name in names if name.startswith("class_") and name[6:].isdigit()]
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

    If that file is absent the leaderboard is returned unchanged. Raises CorruptFile for a file with other rows, and
    Missing for one that is no regular file.
    """
    beside = path.with_name(f"{path.stem}.classes.csv")
    if class_columns(list(board)) or not beside.exists():
        return board
    try:
        with open_regular(beside) as file:
            found = pd.read_csv(file, dtype=dict.fromkeys(KEYS, "string"))
        numbered = [str(name) for name in found if str(name).removeprefix("n_").startswith("class_")]
        merged = board.merge(found[[*KEYS, *numbered]], on=KEYS, how="left", validate="one_to_one")
        return merged.copy()  # joins the columns of many classes, each of which lies by itself
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise CorruptFile(f"{beside}: not the classes of {beside.stem}: {' '.join(str(error).split())}") from None
