"""Migration of leaderboard files with older schemas to the current one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from fairbench.errors import CorruptFile
from fairbench.leaderboard.columns import (
    ENDS,
    SCHEMA,
    TABLE,
    is_declared,
)

__all__ = ["migrate"]

Rows = list[list[str]]


def migrate(where: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], Rows]:
    """Return header and rows in the current schema; raises CorruptFile for a newer schema or for several."""
    if "schema" not in header:
        raise CorruptFile(f"{where}: row 1: column 'schema' is missing")
    index = header.index("schema")
    texts = [row[index] if index < len(row) else "" for row in rows]
    version = int(texts[0]) if texts and re.fullmatch(r"[0-9]{1,9}", texts[0]) else 0
    if version > SCHEMA:
        raise CorruptFile(
            f"{where}: row 2, column 'schema': {version}, but this fairbench reads at most {SCHEMA}: upgrade it"
        )
    for number, text in enumerate(texts, start=2):
        if not version or text != texts[0]:
            expected = texts[0] if version else f"1 to {SCHEMA}"
            raise CorruptFile(f"{where}: row {number}, column 'schema': {text!r:.80}, expected {expected}")
    names, cells = list(header), [list(row) for row in rows]
    _check_shape(where, names, cells, version)
    for step in range(version, SCHEMA):
        names, cells = _STEPS[step](names, cells)
    return names, cells


def _check_shape(where: str, header: Sequence[str], rows: Sequence[Sequence[str]], version: int) -> None:
    absent = [each.name for each in TABLE if each.since <= version and each.name not in (*header, "classes")]
    if absent or len(set(header)) < len(header):
        problem = f"column {absent[0]!r} is missing" if absent else "a column occurs twice"
        raise CorruptFile(f"{where}: row 1: {problem}")
    strange = [name for name in header if not is_declared(name)]
    if strange:
        raise CorruptFile(f"{where}: row 1: column {strange[0]!r:.80} is not one of schema {version}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise CorruptFile(f"{where}: row {number}: {len(row)} cells, expected {len(header)}")


def _add_origin(header: list[str], rows: Rows) -> tuple[list[str], Rows]:
    """Schema 1 to 2: columns for packages, split and settings, which are empty in older files."""
    added = [each.name for each in TABLE if each.since == 2]
    index = header.index("schema")
    return [*header, *added], [[*row[:index], "2", *row[index + 1 :], *[""] * len(added)] for row in rows]


def _drop_ends(header: list[str], rows: Rows) -> tuple[list[str], Rows]:
    """Schema 2 to 3: rows over seeds have no interval ends; older files held means and deviations of ends."""
    index, seed = header.index("schema"), header.index("seed")
    ends = {header.index(name) for name in ENDS if name in header}
    for row in rows:
        row[index] = "3"
        if row[seed] in ("mean", "std"):
            for end in ends:
                row[end] = ""
    return header, rows


_STEPS: dict[int, Callable[[list[str], Rows], tuple[list[str], Rows]]] = {1: _add_origin, 2: _drop_ends}
