"""The leaderboard file: cells to text and back to typed values, checked against the schema both ways."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairbench.errors import CorruptFile, Missing
from fairbench.files import write_text
from fairbench.leaderboard import schema
from fairbench.leaderboard.schema import COSTS, FIGURES

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_leaderboard", "write_leaderboard"]

DTYPES = {"text": "string", "integer": "float64", "number": "float64", "boolean": "boolean"}


def load_leaderboard(path: str | Path) -> pd.DataFrame:
    """Read a leaderboard CSV into a typed frame; `seed` stays text (`0`, `mean`), empty cells are missing values.

    An older schema is migrated. Raises Missing when there is no file, CorruptFile, with the row and the column, for one
    that is no leaderboard or newer than this package. Row 1 is the header.
    """
    import pandas as pd

    path = Path(path)
    header, rows = schema.migrate(str(path), *_read(path))
    values = list(schema.check(str(path), header, rows))
    columns = {}
    for name, cells in zip(header, zip(*values, strict=True), strict=True):
        kind = schema.column(name).type
        whole = kind == "integer" and None not in cells
        columns[name] = pd.Series(list(cells), dtype="int64" if whole else DTYPES[kind])
    return pd.DataFrame(columns)


def write_leaderboard(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as a CSV, the same rows as the same bytes; raises CorruptFile for what a reader would refuse."""
    cells = [[_cell(name, row.get(name)) for name in columns] for row in rows]
    for _ in schema.check(str(path), columns, cells):
        pass
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *cells])
    write_text(path, text.getvalue())


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            header, *rows = csv.reader(handle, strict=True)
    except FileNotFoundError:
        raise Missing(f"{path}: no such leaderboard") from None
    except (ValueError, OSError, csv.Error) as error:
        raise CorruptFile(f"{path}: not a leaderboard: {' '.join(str(error).split())}") from None
    if not rows and "schema" in header:
        raise CorruptFile(f"{path}: has no rows")
    return header, rows


def _cell(name: str, value: Any) -> str:
    """Accuracies with four decimals, costs with two, everything else as it is; not-a-number is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if name in FIGURES or name.startswith("class_"):
        return f"{value:.4f}"
    return f"{value:.2f}" if name in COSTS and isinstance(value, float) else str(value)
