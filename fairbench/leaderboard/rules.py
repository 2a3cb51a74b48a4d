"""The rules for the rows of a leaderboard file, each by itself and beside the previous rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from fairbench.errors import CorruptFile
from fairbench.leaderboard.columns import ENDS, SCHEMA, Cell, column

__all__ = ["Rules", "check_rows"]

SLACK = 1.01e-4  # the largest difference due to rounding to four decimals
_ALWAYS = ("schema", "suite", "protocol", "method", "seed", "seeds", "checkpoint", "attack")
_SHARED = {"schema", "protocol"}
_KEY = ("method", "seed", "checkpoint", "attack", "run_id")
_ORDERED = (("average_lo", "average"), ("average", "average_hi"), ("worst_lo", "worst"), ("worst", "worst_hi"))


def check_rows(where: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[list[Cell]]:
    """Yield the rows as values; raises CorruptFile with the row, the header being row 1, and the column."""
    return map(Rules(where, header).values, rows)


class Rules:
    """The rules for the rows of a file, by themselves and beside the previous rows."""

    def __init__(self, where: str, header: Sequence[str]) -> None:
        self._where, self._header = where, header
        self._at = {name: index for index, name in enumerate(header)}
        self._columns = [
            (declared := column(name), name, name in _ALWAYS, name in _ALWAYS or not declared.empty) for name in header
        ]
        self._classes = [(at, self._at.get(f"n_{name}")) for name, at in self._at.items() if _is_class(name)]
        self._last: list[str] = [""] * len(header)
        self._parsed: list[Cell] = [None] * len(header)
        self._seen: dict[tuple[str, ...], int] = {}
        self._shared: dict[str, str] = {}
        self._number = 1

    def values(self, row: Sequence[str]) -> list[Cell]:
        """Return the next row as values; raises CorruptFile with the row and the column."""
        self._number += 1
        where, at, last, values = f"{self._where}: row {self._number}", self._at, self._last, self._parsed
        aggregate = "seed" in at and row[at["seed"]] in ("mean", "std")
        for index, text in enumerate(row):
            if text and text == last[index]:
                continue  # successive rows share most of their cells
            declared, name, always, of_a_run = self._columns[index]
            try:
                values[index] = declared.parse(text)
            except ValueError as error:
                raise CorruptFile(f"{where}, column {name!r}: {text!r:.80} is not {error}") from None
            if text == "" and (always if aggregate else of_a_run):
                raise CorruptFile(f"{where}, column {name!r}: empty")
            last[index] = text
        _check_row(where, self._header, row, values, at)
        if not aggregate:
            self._check_classes(where, row, values)
        key = tuple(row[at[name]] for name in _KEY)
        if self._seen.setdefault(key, self._number) != self._number:
            raise CorruptFile(f"{where}, column 'attack': the same run and attack as row {self._seen[key]}")
        for name in _SHARED & at.keys():
            if self._shared.setdefault(name, row[at[name]]) != row[at[name]]:
                raise CorruptFile(
                    f"{where}, column {name!r}: {row[at[name]]!r:.80} differs from row 2's: "
                    f"rows of two {name}s are not comparable and never share a file"
                )
        return list(values)

    def _check_classes(self, where: str, row: Sequence[str], values: Sequence[Cell]) -> None:
        """Check that worst is the lowest class and average the weighted mean of the classes, up to rounding."""
        shares = [(values[at], values[n]) for at, n in self._classes if n is not None]
        known = [(share, n) for share, n in shares if isinstance(share, float) and isinstance(n, int) and n > 0]
        if not known or "worst" not in self._at:
            return
        total = sum(n for _, n in known)
        if isinstance(n := values[self._at["n"]], int) and n != total:
            raise CorruptFile(f"{where}, column 'n': {n}, but its classes have {total} images")
        expected = {"worst": min(share for share, _ in known)}
        expected["average"] = sum(share * n for share, n in known) / total
        for name, value in expected.items():
            cell = values[self._at[name]]
            if isinstance(cell, float) and abs(cell - value) > SLACK:
                raise CorruptFile(f"{where}, column {name!r}: {row[self._at[name]]}, but its classes give {value:.4f}")


def _check_row(
    where: str, header: Sequence[str], row: Sequence[str], values: Sequence[Cell], at: dict[str, int]
) -> None:
    seed = row[at["seed"]]
    if not re.fullmatch(r"-?[0-9]{1,20}|mean|std", seed):
        raise CorruptFile(f"{where}, column 'seed': {seed!r:.80} is not a whole number, mean or std")
    over_seeds = seed in ("mean", "std") and "schema" in at and row[at["schema"]] == str(SCHEMA)
    if over_seeds:
        ended = [name for name in ENDS if name in at and values[at[name]] is not None]
        if ended:
            raise CorruptFile(
                f"{where}, column {ended[0]!r}: {row[at[ended[0]]]}, but a row over seeds has no interval"
            )
    if seed == "std":
        return
    for low, high in _ORDERED if "average" in at else ():
        lower, upper = values[at[low]], values[at[high]]
        if isinstance(lower, float) and isinstance(upper, float) and lower > upper:
            raise CorruptFile(f"{where}, column {low!r}: {row[at[low]]} is above {high!r}, {row[at[high]]}")
    if seed == "mean" and "average" in at and values[at["average"]] is None:
        raise CorruptFile(f"{where}, column 'average': empty")


def _is_class(name: str) -> bool:
    return re.fullmatch(r"class_\d+", name) is not None
