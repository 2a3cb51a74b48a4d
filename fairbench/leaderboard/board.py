"""The leaderboard file: values to text and back, checked against the schema in both directions."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairbench.errors import CorruptFile, InvalidInput
from fairbench.files import atomic
from fairbench.leaderboard.columns import AGGREGATES, COSTS, FIGURES, column
from fairbench.leaderboard.edited_csv import read_rows
from fairbench.leaderboard.rules import Rules, check_rows
from fairbench.leaderboard.schema import migrate

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_as_written", "guarded", "load_leaderboard", "runs_of", "write_leaderboards"]

# A text that already begins with a guard gets one more, so that reading restores the text.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
DTYPES = {"text": "string", "integer": "float64", "number": "float64", "boolean": "boolean"}


def load_leaderboard(path: str | Path) -> pd.DataFrame:
    """Read a leaderboard into a typed frame; `seed` stays text (`0`, `mean`), empty cells are missing values.

    `path` is a CSV, or the name of a suite such as "digits" for its newest committed leaderboard, or "digits/v3".

    An older schema is migrated, and changes by pandas or a spreadsheet are undone (`edited_csv.read_rows`). Raises
    InvalidInput for an empty path, Missing if there is no file or no committed leaderboard of a suite of this name, and
    CorruptFile, with the row and the column, for a file that is no leaderboard or newer than this package. Row 1 is the
    header.
    """
    import pandas as pd

    if path == "":
        raise InvalidInput("the path of the leaderboard is empty")
    path = _committed(path) if isinstance(path, str) and _is_suite(path) else Path(path)
    header, rows = read_rows(path)
    if not rows and "schema" in header:
        raise CorruptFile(f"{path}: has no rows")
    header, rows = migrate(str(path), header, rows)
    values = list(check_rows(str(path), header, _without_guards(header, rows)))
    columns = {}
    for name, cells in zip(header, zip(*values, strict=True), strict=True):
        kind = column(name).type
        whole = kind == "integer" and None not in cells
        columns[name] = pd.Series(list(cells), dtype="int64" if whole else DTYPES[kind])
    return pd.DataFrame(columns)


def runs_of(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of single runs; raises InvalidInput if a board, or a part of it, has rows over seeds alone."""
    runs = rows[~rows["seed"].isin(AGGREGATES)]
    if runs.empty and len(rows):
        kinds = ", ".join(AGGREGATES)
        raise InvalidInput(f"{path}: has only rows over seeds ({kinds}); a comparison needs single runs")
    return runs


def write_leaderboards(files: Mapping[Path, Sequence[str]], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows to CSVs with different columns as they are produced; the same rows give the same bytes.

    No file is written unless all rows are valid. Raises CorruptFile for a row that a reader would refuse.
    """
    with ExitStack() as stack:
        sinks = [stack.enter_context(_sink(path, columns)) for path, columns in files.items()]
        for row in rows:
            for write in sinks:
                write(row)


def check_as_written(where: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Check rows as `write_leaderboards` does and write nothing; raises CorruptFile, which says `where`."""
    cells = _checked_cells(where, columns)
    for row in rows:
        cells(row)


def guarded(text: str) -> str:
    """Put `'` before a text that a spreadsheet would read as a formula; `load_leaderboard` removes it."""
    return f"'{text}" if _FORMULA.match(text) else text


def _is_suite(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_-]+(/v[0-9]+)?", name) is not None and not Path(name).is_file()


def _committed(suite: str) -> Path:
    """Return a committed leaderboard, SUITE or SUITE/vN, of the working directory or else of the package."""
    from fairbench.leaderboard import lookup

    root = Path() if (Path("leaderboards") / suite.partition("/")[0]).is_dir() else Path(__file__).resolve().parents[2]
    return lookup.find_board(suite, root)


def _without_guards(header: Sequence[str], rows: Iterable[list[str]]) -> Iterator[list[str]]:
    kept = header.index("seed") if "seed" in header else -1
    for row in rows:
        yield [
            cell[1:] if cell[:1] == "'" and index != kept and _FORMULA.match(cell) else cell
            for index, cell in enumerate(row)
        ]


@contextmanager
def _sink(path: Path, columns: Sequence[str]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    cells = _checked_cells(str(path), columns)
    how: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}  # no text ends a build
    with atomic(path) as temporary, temporary.open("w", **how) as handle:
        table = csv.writer(handle, lineterminator="\n")
        table.writerow(columns)
        yield lambda row: table.writerow(cells(row))


def _checked_cells(where: str, columns: Sequence[str]) -> Callable[[Mapping[str, Any]], list[str]]:
    """Return a function that writes the next row as cells, which the next call overwrites; it raises CorruptFile."""
    formats = [(name, _format(name)) for name in columns]
    rules = Rules(where, columns)
    last: list[Any] = [None] * len(columns)
    cells = [""] * len(columns)

    def written(row: Mapping[str, Any]) -> list[str]:
        for index, (name, form) in enumerate(formats):
            value = row.get(name)
            if value is not last[index]:  # most values are the same in all rows of a run
                last[index], cells[index] = value, _cell(value, form)
                if isinstance(value, str) and columns[index] != "seed":
                    cells[index] = guarded(value)
        rules.values(cells)
        return cells

    return written


def _format(name: str) -> str:
    """Return the format of a column's floats: accuracies with four decimals, costs with two, others as they are."""
    if name in FIGURES or name == "train_robust" or name.startswith("class_"):
        return ".4f"
    return ".2f" if name in COSTS else ""


def _cell(value: Any, form: str) -> str:
    """Return the text of a value; NaN is empty."""
    if isinstance(value, str):
        return value
    if value is None or value != value:
        return ""
    return format(value, form) if form and (form == ".4f" or isinstance(value, float)) else str(value)
