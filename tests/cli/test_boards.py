"""The commands that read leaderboards, on hand-made boards."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from stored import build_board, run_spec, store

from fairbench.leaderboard.columns import COLUMNS, OPTIONAL


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("boards")
    for seed in range(3):
        for method in ("sat", "trades"):
            store(folder / "results", run_spec(method, seed))
    build_board(folder)
    return folder


def test_a_column_is_explained(fairbench):
    code, out, err = fairbench("explain", "worst_crossfit")
    assert (code, err) == (0, [])
    assert "biased high" in out
    assert json.loads(fairbench("explain", "nsd", "--json")[1])["unit"] == "ratio"
    listed = {facts["column"] for facts in json.loads(fairbench("explain", "--json")[1])}
    assert listed == {*COLUMNS, *OPTIONAL, "class_0", "n_class_0"}
    assert "budget_hash" in fairbench("explain")[1]
    assert fairbench("explain", "worts") == (2, "", ["fairbench: unknown column 'worts'; did you mean 'worst'?"])


def test_a_row_is_shown_with_the_command_that_makes_it_again(root, fairbench):
    code, out, err = fairbench("show", "sat/2/last/clean", "--out", root)
    assert (code, err) == (0, [])
    assert out.splitlines()[-1] == "  fairbench run tiny, twice --methods sat --seeds 2"
    facts = json.loads(fairbench("show", run_spec("sat", 2).run_id, "--board", "tiny", "--out", root, "--json")[1])
    assert (facts["row"]["seed"], facts["row"]["attack"]) == ("2", "union")
    code, out, err = fairbench("show", "sat/9", "--board", "tiny", "--out", root)
    assert (code, out, err) == (2, "", ["fairbench: unknown row 'sat/9'; did you mean 'sat/2'?"])
    # Without --board the committed boards are searched last and make the suggestion: digits has seeds 0 to 4.
    code, out, err = fairbench("show", "sat/9", "--out", root)
    assert (code, out, err) == (2, "", ["fairbench: unknown row 'sat/9'; did you mean 'sat/4'?"])


def test_a_row_that_several_committed_boards_have_is_that_of_the_largest(tmp_path, monkeypatch, fairbench):
    monkeypatch.chdir(tmp_path)
    code, out, err = fairbench("show", "absld/0/best/union")
    assert code == 0
    boards = Path(__file__).parents[2] / "leaderboards"
    folders = sorted(path.name for path in boards.iterdir())
    others = [name for name in folders if name.startswith(("cifar", "digits-"))]  # they have absld, zoo boards do not
    told = "row absld/0/best/union of digits, the largest board with it; --board names another: "
    assert err == [told + ", ".join(others)]
    assert re.search(r"^  suite +digits$", out, flags=re.MULTILINE)
    code, out, err = fairbench("show", "absld/0", "--board", "digits-ablations")
    assert (code, err) == (0, [])
    assert re.search(r"^  suite +digits-ablations$", out, flags=re.MULTILINE)


def test_a_method_in_the_place_of_a_board_or_of_a_row_is_told_so(tmp_path, monkeypatch, fairbench):
    monkeypatch.chdir(tmp_path)
    (told,) = fairbench("show", "absld")[2]
    assert told == "fairbench: absld is a method: name one of its runs by a seed, as in `fairbench show absld/0`"
    (told,) = fairbench("leaderboard", "show", "absld")[2]
    assert told.startswith("fairbench: absld is a method, not a board; committed boards: ")
    (told,) = fairbench("leaderboard", "show", "absld/0")[2]
    assert told.startswith("fairbench: absld is a method, not a board; `fairbench show absld/0` shows a run; committed")


@pytest.mark.parametrize("form", ["table", "csv", "markdown", "latex", "json"])
def test_boards_and_comparisons_in_every_format(root, fairbench, form):
    code, out, err = fairbench("leaderboard", "show", "tiny", "--by", "nsd", "--format", form, "--out", root)
    assert (code, err) == (0, [])
    assert "trades" in out
    code, out, err = fairbench("leaderboard", "compare", "sat", "trades", "tiny", "--format", form, "--out", root)
    assert (code, err) == (0, [])
    assert "worst" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "tiny", "--by", "worts"], "unknown column 'worts'; did you mean 'worst'?"),
        (["show", "tiny", "--attack", "pgd-2"], "unknown attack of this board 'pgd-2'; did you mean 'pgd-20'?"),
        (["show", "tiny", "--base", "stat"], "did you mean 'sat'?"),
        (["show", "tiny", "--format", "html"], "html"),
        (["show", "tiny", "--published", "--format", "csv"], "--papers has no csv"),
        (["compare", "sat", "trade", "tiny"], "did you mean 'trades'?"),
        (["compare", "sat", "trades", "tiny", "--seed", "7"], "no seed in common that is 7"),
    ],
)
def test_wrong_input_is_one_line(root, fairbench, arguments, message):
    code, out, err = fairbench("leaderboard", *arguments, "--out", root)
    assert (code, out, len(err)) == (2, "", 1)
    assert message in err[0]
