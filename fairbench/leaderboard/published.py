"""Figures that papers report, with their sources; they are never mixed with measured figures."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import pandas as pd

from fairbench.errors import CorruptFile, Missing
from fairbench.files import open_regular
from fairbench.leaderboard.lookup import committed_folder

__all__ = ["find_published", "load_published", "registered_as", "reported_on"]

COLUMNS = (
    "source",
    "arxiv",
    "venue",
    "table",
    "dataset",
    "architecture",
    "method",
    "registered",
    "attack",
    "avg",
    "worst",
    "nsd",
    "worst_definition",
    "note",
)
MAX_BYTES = 1_000_000
RANGES = {"avg": 100.0, "worst": 100.0, "nsd": math.inf}
NEVER_EMPTY = ("source", "venue", "table", "dataset", "architecture", "method", "attack", "avg")


def find_published(root: Path) -> Path:
    """Return the file of published figures below a root, or else the committed one; raises Missing."""
    for folder in (root / "leaderboards", committed_folder()):
        path = folder / "published" / "published.csv"
        if path.is_file():
            return path
    raise Missing("leaderboards/published/published.csv: not installed; install robust-fairbench again")


def load_published(path: str | Path) -> pd.DataFrame:
    """Read published figures: percent as printed, text otherwise, missing if a source does not state them.

    Raises Missing for what is no regular file, and CorruptFile for more than MAX_BYTES, or with the row and the column;
    row 1 is the header.
    """
    with open_regular(Path(path)) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise CorruptFile(f"{path}: larger than the {MAX_BYTES} bytes allowed")
    try:
        frame = pd.read_csv(io.BytesIO(content), dtype="string", keep_default_na=False).replace("", pd.NA)
    except ValueError as error:
        raise CorruptFile(f"{path}: not a CSV of published figures: {' '.join(str(error).split())}") from None
    if tuple(frame.columns) != COLUMNS:
        raise CorruptFile(f"{path}: row 1: expected the columns {', '.join(COLUMNS)}")
    for name in NEVER_EMPTY:
        for number in frame.index[frame[name].isna()]:
            raise CorruptFile(f"{path}: row {number + 2}, column {name!r}: empty")
    for name, high in RANGES.items():
        values = pd.to_numeric(frame[name], errors="coerce").astype("float64")
        for number in frame.index[frame[name].notna() & ~values.between(0, high)]:
            raise CorruptFile(f"{path}: row {number + 2}, column {name!r}: {frame[name][number]!r} is out of range")
        frame[name] = values
    return frame


def reported_on(published: pd.DataFrame, dataset: str, attack: str | None = None) -> pd.DataFrame:
    """Return the rows on a leaderboard's dataset and, if named, under an attack: `autoattack`, `pgd-20`, `clean`.

    Names are compared without case, spaces and hyphens; a published attack's settings in brackets are ignored. A
    leaderboard on files (`npz:cifar10-exact-train.npz,...`) has the dataset that is a word of their names.
    """
    words = {_bare(dataset), *re.split(r"[^a-z0-9]+", dataset.lower())}
    rows = published[published["dataset"].map(lambda name: _bare(name) in words)]
    if attack is not None:
        rows = rows[rows["attack"].map(_attack) == _bare(attack)]
    return rows.reset_index(drop=True)


def registered_as(published: pd.DataFrame, method: str) -> pd.DataFrame:
    """Return the rows whose `registered` column has the name of this registered method."""
    return published[(published["registered"] == method).fillna(False)].reset_index(drop=True)


def _attack(text: str) -> str:
    return _bare(text.partition(" (")[0])


def _bare(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
