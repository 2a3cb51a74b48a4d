"""Reading of leaderboard files, which other programs may have changed."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import TextIO

from fairbench.errors import CorruptFile, Missing
from fairbench.leaderboard.columns import FIGURES, column, is_declared

__all__ = ["read_rows"]

Rows = list[list[str]]

POINTER = "version https://git-lfs.github.com/spec/"
HASHES = ("protocol", "recipe_hash", "data_hash", "weights_hash", "commit", "run_id", "split_hash", "config_hash")
AS_NUMBER = re.compile(r"-?\d+\.\d*(e[-+]?\d+)?|-?\d+e\+\d+|-?inf", re.IGNORECASE)  # a number that cannot be a hash
# A leaderboard of 10,000 runs takes 75 MB. Cells of two letters take thirty times the memory of their text.
MAX_BYTES = 256_000_000
SAMPLE = 100  # number of rows examined for changes by another program


def read_rows(path: Path) -> tuple[list[str], Rows]:
    """Return header and rows of a CSV in UTF-8, with or without a byte-order mark; empty rows at its end are dropped.

    Changes by pandas and spreadsheets are undone: a column of row numbers, whole numbers written as `9.0`, booleans
    written as `TRUE`. Raises Missing if there is no file, and CorruptFile for a file larger than MAX_BYTES or of
    another kind; the message names a Git LFS pointer, UTF-16, another separator, and a hash that was converted to a
    number.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # opening a pipe waits for a writer
            raise CorruptFile(f"{path}: not a leaderboard: not a regular file")
        if path.exists() and path.stat().st_size > MAX_BYTES:
            raise CorruptFile(f"{path}: not a leaderboard: larger than the {MAX_BYTES} bytes allowed")
        with path.open(encoding="utf-8-sig", newline="") as handle:
            _require_commas(path, handle)
            header, *rows = csv.reader(handle, strict=True)
    except FileNotFoundError:
        raise Missing(f"{path}: no such leaderboard") from None
    except UnicodeDecodeError:
        raise CorruptFile(f"{path}: not a leaderboard: no text in UTF-8") from None
    except (ValueError, OSError, csv.Error) as error:
        raise CorruptFile(f"{path}: not a leaderboard: {' '.join(str(error).split())}") from None
    while rows and not any(cell.strip() for cell in rows[-1]):
        rows.pop()
    if header and header[0] == "" and all(row[:1] == [str(index)] for index, row in enumerate(rows)):
        header, rows = header[1:], [row[1:] for row in rows]
    _restore(path, header, rows)
    return header, rows


def _require_commas(path: Path, handle: TextIO) -> None:
    """Raise CorruptFile if the first line shows another kind of file; the handle is then at the start again."""
    if handle.buffer.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):  # type: ignore[attr-defined]
        raise CorruptFile(f"{path}: is text in UTF-16; a leaderboard is a CSV in UTF-8")
    first = handle.readline(10_000)
    if not first:  # empty, or a byte-order mark alone
        raise CorruptFile(f"{path}: not a leaderboard: it is empty")
    if first.startswith(POINTER):
        raise CorruptFile(f"{path}: is a pointer of Git LFS, not the file itself; `git lfs pull` fetches it")
    for separator in (";", "\t", "|"):
        if "," not in first and separator in first:
            raise CorruptFile(f"{path}: cells are separated by {separator!r}; save the table as a CSV with commas")
    handle.seek(0)


def _restore(path: Path, header: list[str], rows: Rows) -> None:
    """Undo in place the changes by another program, if there are any."""
    at = {name: index for index, name in enumerate(header)}
    figures = [at[name] for name in FIGURES if name in at]
    if not any(_rewritten(row, figures) for row in rows[:SAMPLE]):
        return
    kinds = {index: column(name).type for name, index in at.items() if is_declared(name)}
    whole = [index for index, kind in kinds.items() if kind == "integer" or header[index] in ("seed", "worst_class")]
    truths = [index for index, kind in kinds.items() if kind == "boolean"]
    hashes = [at[name] for name in HASHES if name in at]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            continue  # the schema's check reports it
        for index in whole:
            if row[index].endswith(".0") and row[index][:-2].isdecimal():
                row[index] = row[index][:-2]
        for index in truths:
            row[index] = {"TRUE": "True", "FALSE": "False"}.get(row[index], row[index])
        for index in hashes:
            if AS_NUMBER.fullmatch(row[index]):
                raise CorruptFile(
                    f"{path}: row {number}, column {header[index]!r}: {row[index]!r} is a hash that another program "
                    "has saved as a number; use the original file"
                )


def _rewritten(row: list[str], figures: list[int]) -> bool:
    """Whether another program wrote the row: a figure without four decimals, or a boolean in capitals."""
    if "TRUE" in row or "FALSE" in row:
        return True
    cells = [row[index] for index in figures if index < len(row)]
    return any(cell and not re.fullmatch(r"\d+\.\d{4}", cell) for cell in cells)
