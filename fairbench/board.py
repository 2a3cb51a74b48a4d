"""The leaderboard file: its columns, and the way back from a CSV to typed, checked values."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairbench.errors import CorruptFile, Missing

__all__ = ["COLUMNS", "COSTS", "FIGURES", "SCHEMA", "load_leaderboard"]

SCHEMA = 1
FIGURES = (
    "average",
    "average_lo",
    "average_hi",
    "worst",
    "worst_lo",
    "worst_hi",
    "worst_crossfit",
    "worst10",
    "nsd",
    "nsd_corrected",
    "gap",
    "gini",
)
COSTS = ("train_seconds", "eval_seconds", "images_per_second", "forwards", "backwards", "flops", "peak_memory_mb")
IDENTITY = (
    "schema",
    "suite",
    "protocol",
    "method",
    "base",
    "policies",
    "provenance",
    "dataset",
    "architecture",
    "teacher",
)
COLUMNS = (
    *IDENTITY,
    "seed",
    "seeds",
    "checkpoint",
    "selection",
    "attack",
    "n",
    *FIGURES[:6],
    "worst_class",
    *FIGURES[6:],
    "flags",
    "quick",
    "classes",
    *COSTS,
    "device",
    "precision",
    "threads",
    "recipe_hash",
    "data_hash",
    "weights_hash",
    "commit",
    "dirty",
    "command",
    "created",
    "run_id",
)
FLAGS = {"quick", "dirty"}
TEXT = {*IDENTITY, "seed", "checkpoint", "selection", "attack", "worst_class", "flags", "device", "precision"}
TEXT |= {"recipe_hash", "data_hash", "weights_hash", "commit", "command", "created", "run_id"}
TEXT -= {"schema"}
SHARES = {name for name in FIGURES if not name.startswith("nsd")}


def load_leaderboard(path: str | Path) -> pd.DataFrame:
    """Read a leaderboard CSV into a typed frame; `seed` stays text (`0`, `mean`), empty cells are missing values.

    Raises Missing when there is no file, CorruptFile, with the row and the column, for one that is no leaderboard. Row
    1 is the header.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            header, *rows = csv.reader(handle, strict=True)
    except FileNotFoundError:
        raise Missing(f"{path}: no such leaderboard") from None
    except (ValueError, OSError, csv.Error) as error:
        raise CorruptFile(f"{path}: not a leaderboard: {' '.join(str(error).split())}") from None
    _check_shape(path, header, rows)
    frame = pd.DataFrame(rows, columns=header, dtype="string").replace("", pd.NA)
    for name in frame.columns:
        if name in FLAGS:
            frame[name] = frame[name].map({"True": True, "False": False}).astype("boolean")
        elif name not in TEXT:
            frame[name] = _numbers(path, frame[name])
    for number, (schema, seed, average) in enumerate(
        zip(frame["schema"], frame["seed"], frame["average"], strict=True), start=2
    ):
        if schema != SCHEMA:
            raise CorruptFile(f"{path}: row {number}, column 'schema': {schema}, expected {SCHEMA}")
        if pd.isna(average) and seed != "std":
            raise CorruptFile(f"{path}: row {number}, column 'average': empty")
    return frame


def _check_shape(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    absent = [name for name in COLUMNS if name not in header and name != "classes"]
    if absent or len(set(header)) < len(header):
        problem = f"column {absent[0]!r} is missing" if absent else "a column occurs twice"
        raise CorruptFile(f"{path}: row 1: {problem}")
    if not rows:
        raise CorruptFile(f"{path}: has no rows")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise CorruptFile(f"{path}: row {number}: {len(row)} cells, expected {len(header)}")


def _numbers(path: Path, column: pd.Series[Any]) -> pd.Series[Any]:
    """A column of text as numbers; accuracies must be fractions in [0,1]."""
    numbers = pd.to_numeric(column.to_numpy(dtype=object, na_value=math.nan), errors="coerce")
    share = column.name in SHARES or str(column.name).startswith("class_")
    bad = ~np.isfinite(numbers) | (share & ((numbers < 0) | (numbers > 1)))
    wrong = np.flatnonzero(bad & column.notna().to_numpy(dtype=bool))
    if len(wrong):
        expected = "a fraction in [0,1]" if share else "a number"
        where = f"row {wrong[0] + 2}, column {column.name!r}"
        raise CorruptFile(f"{path}: {where}: {column[wrong[0]]!r} is not {expected}")
    return pd.Series(numbers, index=column.index)
