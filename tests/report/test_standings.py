from __future__ import annotations

import math

import pandas as pd
import pytest

from fairbench import load_leaderboard
from fairbench.errors import UnknownName
from fairbench.report.standings import Group, class_columns, drawn, groups, pareto_front, standings

ONE = {"clean": [0.9, 0.8], "union": [0.5, 0.3]}
TWO = {"clean": [0.9, 1.0], "union": [0.7, 0.1]}


@pytest.fixture
def board(write_board, tmp_path):
    methods = {
        "fair": {0: {"clean": [0.9, 0.8], "union": [0.5, 0.3]}, 1: {"clean": [0.9, 0.8], "union": [0.6, 0.4]}},
        "teacher": {0: TWO},
        "warm-start": {0: TWO},
        "unfair": {0: TWO},
        "weak": {0: {"clean": [0.9, 0.9], "union": [0.3, 0.1]}},
    }
    return load_leaderboard(write_board(tmp_path / "v1.csv", methods))


def test_methods_come_by_their_worst_class_and_what_they_learned_from_last(board):
    table = standings(board)
    assert list(table["method"]) == ["fair", "unfair", "weak", "teacher", "warm-start"]
    assert list(table["front"]) == [True, False, False, False, False]
    assert list(drawn(table)["method"]) == ["fair", "unfair", "weak", "teacher"]
    assert list(table["worst"]) == pytest.approx([0.35, 0.1, 0.1, 0.1, 0.1])


def test_a_spread_is_a_deviation_over_seeds_and_the_interval_of_a_single_one(board):
    fair, unfair = (standings(board).iloc[place] for place in (0, 1))
    deviation = 0.1 / math.sqrt(2)
    assert fair["seeds"] == 2
    assert (fair["worst_low"], fair["worst_high"]) == pytest.approx((0.35 - deviation, 0.35 + deviation), abs=1e-4)
    assert (unfair["worst_low"], unfair["worst_high"]) == pytest.approx((0.0, 0.2))
    assert math.isnan(unfair["nsd_low"])
    assert fair["clean"] == pytest.approx(0.85)


def test_groups_keep_runs_apart_from_what_is_over_them(board):
    group = groups(board)["fair", "best", "union"]
    assert [run["seed"] for run in group.runs] == ["0", "1"]
    assert (group.mean["seed"], group.std["seed"], group.shown["seed"]) == ("mean", "std", "mean")
    assert groups(board)["weak", "best", "union"].shown["seed"] == "0"


def test_red_flags_of_any_run_are_those_of_the_group(write_board, tmp_path):
    path = write_board(tmp_path / "v1.csv", {"fair": {0: ONE}}, flags="steps;black-box")
    assert groups(load_leaderboard(path))["fair", "best", "union"].red == ["black-box", "steps"]


def test_the_front_holds_what_no_other_beats():
    first, second = pd.Series([3.0, 2.0, 1.0, 2.0, math.nan]), pd.Series([1.0, 2.0, 1.0, 2.0, 9.0])
    assert pareto_front(first, second) == [True, True, False, True, False]


def test_class_columns_are_in_the_order_of_the_classes():
    assert class_columns(["n_class_0", "class_10", "class_2", "worst_class", "class_x"]) == ["class_2", "class_10"]


def test_an_attack_that_the_board_lacks_is_named(board):
    with pytest.raises(UnknownName, match="attack of this board 'unoin'; did you mean 'union'"):
        standings(board, attack="unoin")
    with pytest.raises(UnknownName, match="checkpoint of this board 'first'"):
        standings(board, checkpoint="first")


def test_a_board_without_the_rows_of_the_union_shows_nothing_in_their_place(board):
    """Rows that a reader has left out: only the mean over seeds, or none, remains."""
    part = board[(board["attack"] != "union") & (board["checkpoint"] == "best")]
    assert ("fair", "best", "union") not in groups(part)
    assert Group().shown == {}
