"""A leaderboard after a round trip through other programs: the same figures, or told apart in one line."""

from __future__ import annotations

import csv
import io
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fabricated import store, verdicts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairbench.errors import CorruptFile, Missing
from fairbench.gate.evidence import read_evidence
from fairbench.leaderboard import builder
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.edited_csv import read_rows

COMMITTED = Path(__file__).parents[2] / "leaderboards" / "digits" / "v3.csv"


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> str:
    """The text of a board of two seeds whose classes are called 0, 1, 2; its data hash is of digits and an e."""
    root = tmp_path_factory.mktemp("text")
    for seed, right in enumerate(((4, 8, 6), (5, 7, 7))):
        labels, predicted = verdicts(right, 10)
        clean = verdicts((9, 10, 8), 10)[1]
        store(root / "results", labels, {"clean": clean, "pgd-20": predicted}, seed=seed, names="012", data_hash="1e3")
    return builder.build_boards(root / "results", root / "leaderboards", "tiny")[0].read_text()


def through_pandas(text: str, index: bool = False, **options) -> str:
    options.setdefault("dtype", {"data_hash": str, "split_hash": str})
    return pd.read_csv(io.StringIO(text), **options).to_csv(index=index)


def through_excel(text: str) -> str:
    """Numbers lose the zeros at their end, booleans are capitals, and lines end in CR LF."""
    rows = list(csv.reader(io.StringIO(text)))
    for row in rows[1:]:
        for index, cell in enumerate(row):
            if cell in ("True", "False"):
                row[index] = cell.upper()
            elif cell.replace(".", "", 1).isdigit() and "." in cell:
                row[index] = f"{float(cell):g}"
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\r\n").writerows(rows)
    return sink.getvalue()


def through_a_database(text: str) -> str:
    """Figures lose the zeros at their end, and whole seeds become floats."""
    rows = [row for row in csv.reader(io.StringIO(through_excel(text))) if len(row) > 1]
    at = rows[0].index("seed")
    for row in rows[1:]:
        row[at] = f"{row[at]}.0" if row[at].isdecimal() else row[at]
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerows(rows)
    return sink.getvalue()


MANGLINGS = {
    "pandas": through_pandas,
    "pandas with row numbers": lambda text: through_pandas(text, index=True),
    "excel": through_excel,
    "a database": through_a_database,
    "blank line": lambda text: text + "\n",
    "blank lines": lambda text: text + "\r\n\r\n \n",
    "empty cells": lambda text: text.rstrip("\r\n") + "\n" + "," * text.partition("\n")[0].count(",") + "\n",
    "no line end": lambda text: text.rstrip("\r\n"),
    "CR LF": lambda text: text.replace("\r\n", "\n").replace("\n", "\r\n"),
    "BOM": lambda text: "\ufeff" + text.removeprefix("\ufeff"),
}


def load(text: str, folder: Path) -> pd.DataFrame:
    path = folder / "mangled.csv"
    path.write_bytes(text.encode())
    return load_leaderboard(path)


@pytest.mark.parametrize("name", MANGLINGS)
def test_what_other_programs_change_is_undone(board, tmp_path, name):
    mangled = MANGLINGS[name](board)
    assert mangled != board
    pd.testing.assert_frame_equal(load(mangled, tmp_path), load(board, tmp_path))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.sampled_from(sorted(set(MANGLINGS) - {"pandas with row numbers"})), max_size=4))
def test_so_is_what_several_of_them_change(board, tmp_path, names):
    text = board
    for name in names:
        text = MANGLINGS[name](text.removeprefix("\ufeff"))
    pd.testing.assert_frame_equal(load(text, tmp_path), load(board, tmp_path))


def test_the_committed_board_survives_pandas(tmp_path):
    text = COMMITTED.read_text()
    found = load(through_pandas(text, dtype=None), tmp_path)
    expected = load_leaderboard(COMMITTED)
    assert list(found["worst_class"].dropna()) == list(expected["worst_class"].dropna())
    pd.testing.assert_frame_equal(found, expected)


def test_a_class_called_9_0_keeps_its_name_in_a_file_of_our_own(tmp_path):
    labels, predicted = verdicts((4, 8), 10)
    store(tmp_path / "results", labels, {"clean": predicted}, names=("9.0", "8.0"))
    (path,) = builder.build_boards(tmp_path / "results", tmp_path / "leaderboards", "tiny")
    assert set(load_leaderboard(path)["worst_class"].dropna()) == {"9.0"}


def test_the_gate_reads_what_the_board_reads(board, tmp_path):
    load(MANGLINGS["BOM"](through_excel(through_pandas(board))), tmp_path)
    found = {entry.seed: entry.correct.tolist() for entry in read_evidence(tmp_path / "mangled.csv")}
    assert found == {"0": [4, 8, 6], "1": [5, 7, 7]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace(",", ";"), "cells are separated by ';'; save the table as a CSV with commas"),
        (lambda text: text.replace(",", "\t"), r"cells are separated by '\\t'"),
        (lambda text: "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n", "pointer of Git LFS"),
        (lambda text: text.replace(",", "|"), r"cells are separated by '\|'"),
        (lambda text: "", "not a leaderboard: it is empty"),
        (lambda text: "\ufeff", "not a leaderboard: it is empty"),
        (lambda text: text.partition("\n")[0], "has no rows"),
        (lambda text: text.partition("\n")[0] + "\n\n\n", "has no rows"),
        (lambda text: text.replace(",union,", "\n,union,"), "row 5"),
        (lambda text: through_pandas(text, dtype=None), "'data_hash'.*'1000.0' is a hash that another program"),
        (lambda text: text.replace("0.8000", '"0,8"'), "'0,8' is not a fraction"),
        (
            lambda text: text.replace(",cpu,float32,1,", f",cpu,float32,1{'0' * 400},"),
            "'threads': '10000.* is not a w",
        ),
        (lambda text: text.replace(",cpu,float32,1,", f",cpu,float32,{'1' * 5000},"), "'threads': '1111.* is not a w"),
        (lambda text: text.replace("\n2,", f"\n{'2' * 5000},"), "column 'schema'"),
        (lambda text: text.replace("\n2,", "\n\u0662,"), "column 'schema'"),
    ],
)
def test_what_cannot_be_read_is_told_apart(board, tmp_path, change, words):
    assert change(board) != board
    with pytest.raises(CorruptFile, match=words):
        load(change(board), tmp_path)


def test_utf_16_and_a_missing_file_are_named(board, tmp_path):
    path = tmp_path / "board.csv"
    path.write_bytes(board.encode("utf-16"))
    with pytest.raises(CorruptFile, match="text in UTF-16"):
        load_leaderboard(path)
    with pytest.raises(Missing, match="no such leaderboard"):
        load_leaderboard(tmp_path / "nowhere.csv")
    path.write_bytes(np.random.default_rng(0).bytes(3000))
    with pytest.raises(CorruptFile, match="not a leaderboard"):
        load_leaderboard(path)


def test_cells_of_two_letters_take_at_most_thirty_times_their_text(tmp_path):
    path = tmp_path / "v1.csv"
    row = ",".join(["ab"] * 100)
    path.write_text("\n".join([",".join(f"c{number}" for number in range(100)), *[row] * 3000]))
    tracemalloc.start()
    _, rows = read_rows(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 3000
    assert peak < 30 * path.stat().st_size
