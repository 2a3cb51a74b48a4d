from __future__ import annotations

from pathlib import Path

import pytest
from stored import build_board, run_spec, store

from fairbench.leaderboard import merge
from fairbench.leaderboard.comparison import compare_rows
from fairbench.leaderboard.lookup import committed_folder, find_board
from fairbench.leaderboard.ranking import ranking
from fairbench.report.text.board import shown_after_a_run
from fairbench.suites.sections import Recipe

WORSE = {"best/clean": [0] * 4 + [1] * 4, "best/pgd-20": [1] * 4 + [0] * 4, "last/clean": [0] * 4 + [1] * 4}


@pytest.fixture
def folders(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """A checkout with sat, trades and a method of another budget, and a user's folder in it, with nothing yet."""
    monkeypatch.chdir(tmp_path)
    for method in ("sat", "trades"):
        store(Path("results"), run_spec(method))
    store(Path("results"), run_spec("longer", recipe=Recipe(epochs=7)))
    store(Path("results"), run_spec("trades", role="teacher"))
    build_board(Path())
    return Path(), Path("out")


def _board(root: Path) -> merge.Merged:
    build_board(root)
    return merge.merged(root / "leaderboards" / "tiny" / "v1.csv")


def test_a_method_is_ranked_among_the_committed_rows_of_its_protocol_and_budget(folders):
    _, out = folders
    store(out / "results", run_spec("mine"))
    found = _board(out)
    frame = ranking(found.frame)
    assert dict(zip(frame["method"], frame["whose"], strict=True)) == {
        "mine": "yours",
        "sat": "committed",
        "trades": "committed",
        "teacher": "committed",
    }
    assert frame["rank"].notna().sum() == 3
    assert found.notes == (
        "1 method is yours (out/leaderboards/tiny/v1.csv), 2 committed (leaderboards/tiny/v1.csv).",
        "Left out of the committed board tiny/v1, because the training budget differs: longer.",
    )
    lines = shown_after_a_run(out / "leaderboards" / "tiny" / "v1.csv").splitlines()
    told = "Yours: mine, rank 1 of 3: worst class 25.0 % (95 % CI 0.3 to 84.8), average 37.5 %."
    assert told in lines
    assert "Next: the same command with --seeds 0,1,2   three seeds, the minimum for a comparison" in lines
    assert "Next: fairbench leaderboard compare mine sat tiny --out out   class by class" in lines
    path = out / "leaderboards" / "tiny" / "v1.csv"
    assert compare_rows(path, "mine", "sat", board=found.frame).unit == "images"  # each side's verdicts are found


def test_runs_on_both_boards_stay_once_and_other_runs_of_a_method_get_a_name_of_their_own(folders):
    _, out = folders
    store(out / "results", run_spec("trades"))
    store(out / "results", run_spec("sat", 5), WORSE)
    found = _board(out)
    assert set(found.frame["method"]) == {"sat", "sat@yours", "trades", "teacher"}
    assert "Left out of your rows, because the committed board has them: trades." in found.notes


def test_a_user_whose_rows_are_all_committed_is_told_so(folders):
    _, out = folders
    store(out / "results", run_spec("sat"))
    store(out / "results", run_spec("trades"))
    found = _board(out)
    assert set(found.frame["whose"]) == {"committed"}
    assert found.notes[0] == (
        "The committed board (leaderboards/tiny/v1.csv) has all of your rows: sat, trades. It has 2 methods."
    )
    assert not any("yours" in note for note in found.notes)


def test_another_protocol_or_budget_is_not_merged_and_said(folders):
    _, out = folders
    store(out / "results", run_spec("mine", protocol="b2"))
    found = _board(out)
    assert set(found.frame["method"]) == {"mine"}
    assert found.notes == (
        "The committed board tiny/v1 is not merged: its protocol is a1, yours is b2. "
        "`fairbench leaderboard show tiny/v1` shows it.",
    )
    other = Path("other")
    store(other / "results", run_spec("mine", recipe=Recipe(epochs=9)))
    assert "its training budget is another" in _board(other).notes[0]


def test_the_committed_boards_are_found_from_an_empty_folder_and_by_version(tmp_path, monkeypatch):
    checkout = Path(__file__).parents[2] / "leaderboards"
    monkeypatch.chdir(tmp_path)
    assert committed_folder().samefile(checkout)  # an editable installation; a wheel holds a copy
    assert find_board("digits", tmp_path).parent.samefile(checkout / "digits")
    assert find_board("digits/v1", tmp_path).samefile(checkout / "digits" / "v1.csv")
    assert merge.merged(find_board("digits", tmp_path)).notes == ()
