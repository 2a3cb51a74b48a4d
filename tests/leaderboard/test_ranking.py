from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stored import CLEAN, LABELS, build_board, run_spec, store

from fairbench import load_leaderboard
from fairbench.errors import InvalidInput, UnknownName
from fairbench.leaderboard.detectable import detectable
from fairbench.leaderboard.ranking import oracle, ranking, ratios, relative_score
from fairbench.leaderboard.seed_spread import spread_of
from fairbench.statistics.metrics import OUTSIDE
from fairbench.statistics.moderated import difference_detectable
from fairbench.statistics.significance import minimum_detectable_difference
from fairbench.suites.sections import Evaluation, Recipe, Selection


def _broken(cats: int, dogs: int) -> dict[str, list[int]]:
    """Verdicts under which so many of the four cats and the four dogs withstand the attack."""
    attacked = [0] * cats + [1] * (4 - cats) + [1] * dogs + [0] * (4 - dogs)
    return {"best/clean": LABELS, "best/pgd-20": attacked, "last/clean": CLEAN}


def _board(root: Path) -> pd.DataFrame:
    (path,) = build_board(root)
    return load_leaderboard(path)


def rows_under(board: pd.DataFrame) -> pd.DataFrame:
    runs = ~board["seed"].isin(["mean", "std"])
    return board[runs & (board["attack"] == "union") & (board["checkpoint"] == "best")]


def test_methods_are_ranked_by_their_worst_class_under_the_union(tmp_path):
    results = tmp_path / "results"
    store(results, run_spec("sat"), _broken(3, 2))
    store(results, run_spec("trades"), _broken(3, 3))
    store(results, run_spec("mart"), _broken(4, 1))
    teacher = run_spec("trades", role="teacher")
    store(results, teacher, _broken(4, 4))
    board = _board(tmp_path)
    frame = ranking(board)
    assert frame["method"].tolist() == ["trades", "sat", "mart", "teacher"]
    assert frame["rank"].tolist() == [1, 2, 3, pd.NA]
    assert frame["worst"].tolist() == [0.75, 0.5, 0.25, 1.0]
    assert frame["worst_class"].tolist() == ["cat", "dog", "dog", "cat"]
    assert frame["clean"].tolist() == [1.0] * 4
    assert frame[["rank_lo", "rank_new_lo", "behind_best"]].isna().all(axis=None)
    assert ranking(board, by="class_0")["method"].tolist() == ["mart", "trades", "sat", "teacher"]
    assert ranking(board, by="gap")["method"].tolist() == ["trades", "sat", "mart", "teacher"]  # lower is better
    for name in ("run_id", "worst_class", "seed", "n", "n_class_0"):
        with pytest.raises(InvalidInput, match=f"column '{name}' is no figure to rank by: average"):
            ranking(board, by=name)
    assert ranking(board, attack="clean", checkpoint="last")["worst"].tolist() == [0.75] * 4
    assert ranking(board, ranked=False)["rank"].isna().all()
    for arguments, message in (
        ({"attack": "pgd-2"}, "did you mean 'pgd-20'"),
        ({"by": "worts"}, "did you mean 'worst'"),
        ({"base": "satt"}, "did you mean 'sat'"),
        ({"checkpoint": "first"}, "unknown checkpoint"),
    ):
        with pytest.raises(UnknownName, match=message):
            ranking(board, **arguments)


def test_seeds_give_mean_deviation_and_rank_intervals(tmp_path):
    labels = np.repeat([0, 1], 100)
    for method, dogs in (("good", (80, 82, 81)), ("fair", (78, 80, 80)), ("poor", (20, 22, 20)), ("new", (90, 91))):
        for seed, count in enumerate(dogs):
            attacked = labels.copy()
            attacked[100 + count :] = 0
            verdicts = {"best/clean": labels, "best/pgd-20": attacked, "last/clean": labels}
            store(tmp_path / "results", run_spec(method, seed), verdicts, labels=labels)
    board = _board(tmp_path)
    frame = ranking(board).set_index("method")
    # "new" has two seeds: it has a rank but no interval, and may have any place in those of the others.
    assert frame["rank"].to_dict() == {"new": 1, "good": 2, "fair": 3, "poor": 4}
    assert frame["behind_best"].dropna().to_dict() == {"good": "no", "fair": "no", "poor": "images"}
    places = frame[["rank_lo", "rank_hi", "rank_new_lo", "rank_new_hi"]].dropna().T.to_dict("list")
    assert places == {"good": [1, 3, 1, 3], "fair": [1, 3, 1, 3], "poor": [3, 4, 3, 4]}
    assert (frame.loc["good", "worst"], frame.loc["good", "worst_std"]) == pytest.approx((0.81, 0.01))
    assert frame["seeds"].to_dict() == {"new": 2, "good": 3, "fair": 3, "poor": 3}
    found, under = detectable(board), rows_under(board)
    assert found["average"] == minimum_detectable_difference(200, 0.07, alpha=0.025, mid_p=True)
    assert found["class"] == minimum_detectable_difference(100, 0.07, alpha=0.025, mid_p=True) > found["average"]
    spread = spread_of(under, "worst")
    assert found["worst"] == difference_detectable(spread, 3) > found["worst at five seeds"] > 0
    assert "worst" not in detectable(board[board["seed"] != "2"])


def test_a_method_with_more_seeds_than_others_is_compared_with_all_of_them(tmp_path):
    """One seed of four makes the erratic method the first; what spreads so much is told from nobody."""
    labels = np.repeat([0, 1], 100)
    for method, dogs in (("late", (60, 60, 60, 100)), ("steady", (65, 65, 65)), ("poor", (10, 10, 10))):
        for seed, count in enumerate(dogs):
            attacked = labels.copy()
            attacked[100 + count :] = 0
            verdicts = {"best/clean": labels, "best/pgd-20": attacked, "last/clean": labels}
            store(tmp_path / "results", run_spec(method, seed), verdicts, labels=labels)
    frame = ranking(_board(tmp_path))
    assert frame["method"].tolist() == ["late", "steady", "poor"]
    assert frame["behind_best"].tolist() == ["no", "no", "no"]
    assert frame["rank_lo"].tolist() == [1, 1, 1]


def test_a_board_by_hand_without_rows_over_seeds_is_ranked_by_its_runs(tmp_path):
    for method, cats in (("sat", (4, 2)), ("trades", (3, 2))):
        for seed, kept in enumerate(cats):
            store(tmp_path / "results", run_spec(method, seed), _broken(kept, 4))
    store(tmp_path / "results", run_spec("natural", 0), _broken(0, 0))
    store(tmp_path / "results", run_spec("natural", 1), _broken(1, 2))
    board = _board(tmp_path)
    whole, of_runs = ranking(board), ranking(board[~board["seed"].isin(["mean", "std"])])
    assert of_runs["worst"].tolist() == [0.75, 0.625, 0.125]
    assert of_runs["worst_std"].tolist()[:2] == pytest.approx([0.5 * 2**-0.5, 0.25 * 2**-0.5])
    assert of_runs["nsd"].isna().tolist() == [False, False, True]  # where nothing withstands there is no NSD
    pd.testing.assert_frame_equal(of_runs, whole, atol=0.005, rtol=0)  # a board's own are rounded
    of_means = ranking(board[board["seed"] == "mean"])
    assert of_means["worst"].tolist() == [0.75, 0.625, 0.125]
    assert of_means["seeds"].tolist() == [2, 2, 2]
    assert of_means["worst_std"].isna().all()
    assert detectable(board[board["seed"] == "mean"])["average"] == detectable(board)["average"]
    unsaid = board[board["seed"] == "mean"].assign(n_class_0=np.nan, n_class_1=np.nan)
    assert "class" not in detectable(unsaid)
    assert detectable(unsaid.assign(n=np.nan)) == {}


def test_the_detectable_difference_within_a_class_is_that_of_the_smallest_with_images(tmp_path):
    store(tmp_path / "results", run_spec("sat"), _broken(3, 2))
    board = _board(tmp_path)
    assert detectable(board.assign(n_class_0=0))["class"] == detectable(board)["class"]


def test_where_seeds_do_not_differ_no_detectable_difference_is_named(tmp_path):
    """Three equal seeds are judged by sign flips, of which there are too few to find anything."""
    for method, dogs in (("sat", 0), ("trades", 2)):
        for seed in range(3):
            store(tmp_path / "results", run_spec(method, seed=seed), _broken(3, dogs))
    assert "worst" not in detectable(_board(tmp_path))


def test_a_method_without_the_figure_has_no_place(tmp_path):
    """One of its seeds classifies no image, so that its NSD and their mean are undefined; the others have one."""
    rights = {
        "sat": [(3, 3), (2, 3), (3, 1), (3, 2)],
        "trades": [(4, 4), (4, 3), (3, 4), (4, 4)],
        "natural": [(0, 0), (1, 2), (2, 1), (1, 3)],
    }
    for method, seeds in rights.items():
        for seed, right in enumerate(seeds):
            store(tmp_path / "results", run_spec(method, seed=seed), _broken(*right))
    frame = ranking(_board(tmp_path), by="nsd").set_index("method")
    assert frame["rank"].notna().to_dict() == {"trades": True, "sat": True, "natural": False}
    assert frame.loc["natural", ["rank_lo", "rank_hi", "behind_best"]].isna().all()
    assert frame.loc["sat", ["rank_lo", "rank_hi", "behind_best"]].notna().all()


def test_an_attack_that_did_not_run_on_a_checkpoint_is_named(tmp_path):
    store(tmp_path / "results", run_spec("sat"))
    with pytest.raises(UnknownName, match="unknown attack on the last checkpoint of this board 'pgd-20'"):
        ranking(_board(tmp_path), attack="pgd-20", checkpoint="last")


def test_other_budgets_smoke_tests_and_oracles_have_no_rank(tmp_path):
    results = tmp_path / "results"
    for method in ("sat", "trades"):
        store(results, run_spec(method), _broken(3, 3))
    store(results, run_spec("tuned", recipe=Recipe(epochs=2)), _broken(4, 4))
    board = _board(tmp_path)
    frame = ranking(board)
    # Equal worst classes share a rank; the unranked method stands below, though its worst class is higher.
    assert list(zip(frame["method"], frame["rank"].fillna(0), strict=True)) == [("sat", 1), ("trades", 1), ("tuned", 0)]
    assert frame["worst"].tolist() == [0.75, 0.75, 1.0]
    assert ranking(board.assign(quick=True))["rank"].isna().all()
    assert ranking(board.assign(selection="test"))["rank"].isna().all()


def test_selection_on_the_test_set_is_an_oracle_beside_the_measured(tmp_path):
    results = tmp_path / "results"
    store(results, run_spec("sat"), _broken(3, 2))
    chosen = {"selection": Selection(rule="test"), "custom": True, "protocol": "a2"}
    store(results, run_spec("sat", **chosen), _broken(3, 3))
    store(results, run_spec("trades", **chosen), _broken(4, 4))  # not on the board, so not shown beside it
    store(results, run_spec("sat", **chosen | {"protocol": "a3"}, recipe=Recipe(epochs=9)), _broken(4, 4))
    own, _, _ = sorted(build_board(tmp_path), key=lambda path: len(path.name))
    assert own.name == "v1.csv"
    assert oracle(own, load_leaderboard(own)) == {"sat": 0.75}
    other = own.with_name("v1.custom-a2.csv")
    assert oracle(other, load_leaderboard(other)) == {"sat": 0.75, "trades": 1.0}
    assert oracle(own, load_leaderboard(own), attack="clean", checkpoint="last") == {}


def test_an_oracle_is_found_under_an_attack_on_a_part_of_the_images(tmp_path):
    results, part = tmp_path / "results", "pgd-20:per_class=2"
    evaluation = Evaluation(best=("clean", part), last=("clean",))
    for chosen in ({}, {"selection": Selection(rule="test"), "custom": True, "protocol": "a2"}):
        verdicts = _broken(3, 2)
        seen = np.where(np.arange(len(verdicts["best/pgd-20"])) % 4 < 2, verdicts["best/pgd-20"], OUTSIDE)
        verdicts = {"best/clean": verdicts["best/clean"], f"best/{part}": seen, "last/clean": verdicts["last/clean"]}
        store(results, run_spec("sat", evaluation=evaluation, **chosen), verdicts)
    own = min(build_board(tmp_path), key=lambda path: len(path.name))
    assert set(oracle(own, load_leaderboard(own))) == set(oracle(own, load_leaderboard(own), attack=part)) == {"sat"}


def test_relative_score_and_ratios_by_hand():
    frame = pd.DataFrame({"method": ["a", "b", "c"], "worst": [0.2, 0.3, 0.0], "average": [0.5, 0.4, 0.0]})
    # (0.3 - 0.2) / 0.2 + (0.4 - 0.5) / 0.5 = 0.5 - 0.2
    assert relative_score(frame, "a").tolist() == pytest.approx([0.0, 0.3, -2.0])
    assert relative_score(frame, "c").isna().all()
    assert ratios(frame, "a", ["worst", "average"])["worst"].tolist() == pytest.approx([1.0, 1.5, 0.0])
    assert ratios(frame, "c", ["worst"])["worst"].isna().all()


def test_a_red_flag_of_any_seed_is_shown(tmp_path):
    checked = {"best": {"large-eps": {"value": 0.4, "red": True}, "more-steps": {"value": 0.0, "red": False}}}
    store(tmp_path / "results", run_spec(seed=0), flags=checked)
    store(tmp_path / "results", run_spec(seed=1), flags={"best": {"large-eps": {"value": 0.0, "red": False}}})
    store(tmp_path / "results", run_spec("trades"), flags={"best": {"large-eps": {"value": 0.0, "red": False}}})
    store(tmp_path / "results", run_spec("mart"))
    board = _board(tmp_path)
    rows = board[(board["attack"] == "union") & (board["checkpoint"] == "best")].fillna({"flags": ""})
    found = {(row["method"], row["seed"]): row["flags"] for _, row in rows.iterrows()}
    assert found == {
        ("sat", "0"): "large-eps",
        ("sat", "1"): "none",
        ("sat", "mean"): "large-eps",
        ("sat", "std"): "large-eps",
        **{("trades", seed): "none" for seed in ("0", "mean", "std")},
        **{("mart", seed): "" for seed in ("0", "mean", "std")},
    }
    assert ranking(board).set_index("method")["flags"].to_dict() == {"sat": "large-eps", "trades": "none", "mart": ""}
