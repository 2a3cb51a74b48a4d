"""The table of trials, `tuning/<suite>/v<N>.csv`: one row per finished trial of a budget, which is not run again."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from fairbench.errors import CorruptFile, Missing
from fairbench.files import write_text
from fairbench.suites.values import Frozen, validated

__all__ = ["TrialRow", "read_table", "table_path", "write_table"]


class TrialRow(Frozen):
    """One finished trial: its setting, and its score on held-out images; None for a training that diverged.

    `recipe` holds its settings of the recipe and `options` its hyper-parameters, as JSON; `prerequisites` are the
    frozen ids of the models that the trial was built on, as `need=id;need=id`. Figures are fractions. `train_seconds`
    is recorded and influences no choice.
    """

    suite: str
    version: int
    method: str
    trial: int
    seed: int
    recipe: str
    options: str
    status: Literal["scored", "diverged"]
    score: float | None = None
    score_se: float | None = None
    average: float | None = None
    worst: float | None = None
    worst_class: str | None = None
    n: int | None = None
    epochs: int | None = None
    budget: str
    prerequisites: str | None = None
    train_seconds: float
    run_id: str


def table_path(root: Path, suite: str, version: int) -> Path:
    """The file of a suite's trials below a root folder."""
    return root / "tuning" / suite / f"v{version}.csv"


def read_table(path: Path) -> list[TrialRow]:
    """Read a table of trials; raises Missing, CorruptFile, and InvalidInput with the row and the column."""
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            lines = list(csv.DictReader(handle, strict=True))
    except FileNotFoundError:
        raise Missing(f"{path}: no such table of trials; `fairbench tune` makes it") from None
    except (ValueError, csv.Error) as error:
        raise CorruptFile(f"{path}: not a table of trials: {error}") from None
    rows = []
    for number, line in enumerate(lines, start=2):
        tree = {str(name): value or None for name, value in line.items()}
        rows.append(validated(TrialRow, tree, f"{path}: row {number}"))
    return rows


def write_table(path: Path, rows: Iterable[TrialRow]) -> None:
    """Write the rows sorted by method and trial; equal rows give equal bytes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(TrialRow.model_fields), lineterminator="\n")
    writer.writeheader()
    for row in sorted(rows, key=lambda row: (row.method, row.prerequisites or "", row.budget, row.trial, row.run_id)):
        writer.writerow(row.model_dump())
    write_text(path, text.getvalue())
