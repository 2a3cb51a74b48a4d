from __future__ import annotations

import csv
from pathlib import Path

import pytest
from stored import build_board, run_spec, store

from fairbench.errors import InvalidInput, Missing
from fairbench.leaderboard.board import load_leaderboard, write_leaderboards

TEXTS = ["=cmd|' /C calc'!A0", "+1", "-x", "@SUM(A1)", "\tx", "'=x", "''-y", "plain", "'quoted'", "a=b"]


@pytest.mark.parametrize("text", TEXTS)
def test_no_text_of_a_board_is_a_formula_and_all_come_back(tmp_path, text):
    store(tmp_path / "results", run_spec())
    (path,) = build_board(tmp_path)
    board = load_leaderboard(path)
    board["worst_class"] = text
    rows = [{key: value for key, value in row.items() if value == value} for row in board.to_dict("records")]
    write_leaderboards({path: list(board.columns)}, rows)
    with path.open(newline="") as handle:
        cells = {cell for row in csv.reader(handle) for cell in row}
    assert not [cell for cell in cells if cell[:1] in set("=+@\t\r-")]
    assert load_leaderboard(path)["worst_class"].unique().tolist() == [text]


def test_the_name_of_a_suite_is_its_newest_committed_board(tmp_path, monkeypatch):
    committed = Path(__file__).parents[2] / "leaderboards" / "digits"
    newest = max(int(path.stem[1:]) for path in committed.glob("v*.csv") if path.stem[1:].isdecimal())
    monkeypatch.chdir(tmp_path)
    assert load_leaderboard("digits").equals(load_leaderboard(committed / f"v{newest}.csv"))
    assert load_leaderboard("digits/v3").equals(load_leaderboard(committed / "v3.csv"))
    for name in ("no-such-suite", "nothing.csv", "digits/nothing.csv", "digits/v999"):
        with pytest.raises(Missing):
            load_leaderboard(name)
    (tmp_path / "digits").write_bytes((committed / "v1.csv").read_bytes())
    assert load_leaderboard("digits").equals(load_leaderboard(committed / "v1.csv"))


def test_an_empty_path_is_refused_as_such():
    """It had been read as the working directory: a corrupt file of the name `.`."""
    with pytest.raises(InvalidInput, match=r"^the path of the leaderboard is empty$"):
        load_leaderboard("")
