from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stored import build_board, run_spec, store

from fairbench.errors import CorruptFile, InvalidInput, Missing, UnknownName
from fairbench.gate.evidence import read_evidence
from fairbench.gate.pairs import Pair, require_comparable
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.comparison import Comparison, compare_rows
from fairbench.leaderboard.detectable import detectable, seeds_detectable
from fairbench.leaderboard.differences import Difference
from fairbench.report.text.compared import comparison_sheet
from fairbench.statistics.moderated import board_spread, moderated_test
from fairbench.suites.sections import Evaluation

LABELS = np.repeat([0, 1], 50)


def _verdicts(cats: int, dogs: int, *, from_end: bool = False) -> dict[str, np.ndarray]:
    """Of fifty cats and fifty dogs so many withstand: the first ones, or the last ones."""
    right = np.arange(50) < np.array([[cats], [dogs]])
    right = (right[:, ::-1] if from_end else right).ravel()
    return {"best/clean": LABELS, "best/pgd-20": np.where(right, LABELS, 1 - LABELS), "last/clean": LABELS}


def _store(root: Path, method: str, counts: list[tuple[int, int]]) -> None:
    for seed, (cats, dogs) in enumerate(counts):
        store(root / "results", run_spec(method, seed), _verdicts(cats, dogs), labels=LABELS)


def test_two_checkpoints_are_compared_on_the_same_images(tmp_path):
    store(tmp_path / "results", run_spec("sat"), _verdicts(40, 20), labels=LABELS)
    store(tmp_path / "results", run_spec("trades"), _verdicts(30, 20, from_end=True), labels=LABELS)
    (path,) = build_board(tmp_path)
    found = compare_rows(path, "sat", "trades")
    assert (found.unit, found.seeds) == ("images", ("0",))
    worst, average, cat, dog = found.differences
    assert (worst.figure, worst.a, worst.b) == ("worst", 0.4, 0.4)
    assert worst.raw == 1.0
    # cats: the first 40 against the last 30, so 20 are lost and 10 won: 2 P(B(30, 1/2) <= 10) = 0.0987, of which the
    # chance of 10 itself, 0.0280, is taken off by mid-p. dogs: 20 lost and 20 won, p = 1; over all 40 and 30: 0.2820
    # less the chance of 30 of 70, 0.0469
    assert (cat.figure, cat.a, cat.b) == ("class cat", 0.8, 0.6)
    assert (dog.figure, dog.difference) == ("class dog", 0.0)
    assert average.difference == pytest.approx(0.1)
    assert cat.raw == pytest.approx(0.0987 - 0.0280, abs=2e-4)
    assert average.raw == pytest.approx(0.2820 - 0.0469, abs=2e-4)
    assert cat.p == pytest.approx(4 * cat.raw)  # Holm: the smallest of four
    assert average.p == pytest.approx(3 * average.raw)
    assert dog.p == 1.0
    assert cat.low < 0.2 < cat.high
    assert "no difference is significant" in found.verdict
    assert "not about the methods" in found.verdict
    # the change of the worst is 0, that of the average 0.1 / 0.5
    assert found.relative == pytest.approx(0.2)
    by_id = compare_rows(path, run_spec("sat").run_id, run_spec("trades").run_id)
    assert by_id.differences == found.differences


def test_methods_are_compared_over_three_seeds_or_not_at_all(tmp_path):
    _store(tmp_path, "sat", [(40, 20), (41, 22), (42, 21)])
    _store(tmp_path, "trades", [(40, 41), (42, 42), (41, 43)])
    _store(tmp_path, "mart", [(20, 20), (21, 21)])
    (path,) = build_board(tmp_path)
    found = compare_rows(path, "sat", "trades")
    assert (found.unit, found.seeds) == ("seeds", ("0", "1", "2"))
    figures = {one.figure: one for one in found.differences}
    assert list(figures) == ["worst", "average", "class cat", "class dog"]
    dog, worst = figures["class dog"], figures["worst"]
    runs = [[0.40, 0.44, 0.42], [0.82, 0.84, 0.86], [0.40, 0.42]]  # the dogs of all three methods inform the variance
    test = moderated_test(runs[0], runs[1], board_spread(runs), one_of_many=True)
    assert dog.difference == pytest.approx(-0.42)
    assert (dog.raw, dog.low, dog.high) == pytest.approx((test.p, test.low, test.high))
    assert worst.p == worst.raw < 0.001
    # Worst class and average are told apart, so the classes follow, the cats by Holm's last step.
    assert [one.winner for one in found.differences] == ["B", "B", "", "B"]
    assert dog.p == pytest.approx(max(2 * dog.raw, worst.p, figures["average"].p))
    assert figures["class cat"].p == figures["class cat"].raw > 0.05
    assert "trades is better on worst, average, class dog (t-tests over 3 seeds with the board's" in found.verdict
    assert found.detectable["worst"] > found.detectable["worst at five seeds"] > 0
    two = compare_rows(path, "sat", "mart")
    assert (two.unit, two.seeds) == ("none", ("0", "1"))
    assert all(math.isnan(one.p) and math.isnan(one.low) for one in two.differences)
    assert two.differences[2].difference == pytest.approx(0.4)
    assert "no method can be said to beat another below 3" in two.verdict
    one = compare_rows(path, "sat", "mart", seed="1")
    assert (one.unit, one.seeds) == ("images", ("1",))


def test_methods_with_unequal_numbers_of_seeds_are_compared_over_all_of_them(tmp_path):
    _store(tmp_path, "sat", [(40, 20), (41, 22), (42, 21), (40, 23)])
    _store(tmp_path, "trades", [(40, 41), (42, 42), (41, 43)])
    (path,) = build_board(tmp_path)
    found = compare_rows(path, "trades", "sat")
    assert found.counts == (3, 4)
    assert "(t-tests over 3 and 4 seeds with the board's variance" in found.verdict
    runs = [[0.80, 0.84, 0.82], [0.40, 0.44, 0.42, 0.46]]
    test = moderated_test(*runs, board_spread(runs))
    worst = found.differences[0]
    assert (worst.raw, worst.low, worst.high) == pytest.approx((test.p, test.low, test.high))
    assert found.detectable == seeds_detectable(board_spread(runs), 3)
    assert detectable(load_leaderboard(path))["worst"] == pytest.approx(found.detectable["worst"], abs=1e-4)
    notes = comparison_sheet(found).notes
    assert any("points of worst class with 3 seeds a method, " in note for note in notes)


def test_what_cannot_be_compared_says_why(tmp_path):
    _store(tmp_path, "sat", [(40, 20)])
    store(tmp_path / "results", run_spec("trades", 7), _verdicts(30, 30), labels=LABELS)
    (path,) = build_board(tmp_path)
    with pytest.raises(InvalidInput, match="no seed in common: name two run ids"):
        compare_rows(path, "sat", "trades")
    with pytest.raises(UnknownName, match="did you mean 'trades'"):
        compare_rows(path, "sat", "trade")
    with pytest.raises(UnknownName, match=r"of .*v1.csv 'nothing_like_it'; known: sat, trades$"):  # and no run ids
        compare_rows(path, "sat", "nothing_like_it")
    with pytest.raises(UnknownName, match=f"did you mean '{run_spec('sat').run_id}'"):
        compare_rows(path, run_spec("sat").run_id[:-2], "sat")
    with pytest.raises(UnknownName, match="did you mean 'pgd-20'"):
        compare_rows(path, "sat", "trades", attack="pgd-2")
    with pytest.raises(UnknownName, match=r"'nothing_like_it'; known: clean, pgd-20, union$"):  # each of them once
        compare_rows(path, "sat", "trades", attack="nothing_like_it")
    ids = [run_spec("sat").run_id, run_spec("trades", 7).run_id]
    assert compare_rows(path, *ids).unit == "images"
    verdicts = next(tmp_path.glob("results/tiny/sat/*/verdicts.npz"))
    content = verdicts.read_bytes()
    verdicts.write_bytes(content[:-1])
    with pytest.raises(CorruptFile, match="does not match the checksum"):
        compare_rows(path, *ids)
    shutil.rmtree(tmp_path / "results")
    with pytest.raises(Missing, match="two checkpoints are compared on their verdicts"):
        compare_rows(path, *ids)


def test_a_board_with_rows_over_seeds_alone_cannot_be_compared(tmp_path):
    for method in ("sat", "trades"):
        _store(tmp_path, method, [(40, 20), (30, 30)])
    (path,) = build_board(tmp_path)
    cells = pd.read_csv(path, dtype=str, keep_default_na=False)
    cells[cells["seed"].isin(["mean", "std"])].to_csv(path, index=False)
    reason = r"v1.csv: has only rows over seeds \(mean, std\); a comparison needs single runs"
    with pytest.raises(InvalidInput, match=reason):
        compare_rows(path, "sat", "trades")
    with pytest.raises(InvalidInput, match=reason):
        read_evidence(path)


def test_a_board_of_many_classes_has_them_beside_it(tmp_path):
    labels = np.arange(42) % 21
    names = [f"kind {number}" for number in range(21)]
    for seed in range(3):
        for method, wrong in (("sat", 3), ("trades", 5)):
            broken = np.where(labels == wrong, 0, labels)
            verdicts = {"best/clean": labels, "best/pgd-20": broken, "last/clean": labels}
            store(tmp_path / "results", run_spec(method, seed), verdicts, labels=labels, names=names)
    path, _ = build_board(tmp_path)
    found = {one.figure: one for one in compare_rows(path, "sat", "trades").differences}
    assert len(found) == 23
    assert (found["class kind 3"].difference, found["class kind 5"].difference) == (-1.0, 1.0)


def test_a_winner_needs_a_small_p():
    assert Difference("worst", 0.5, 0.4, p=0.05).winner == "A"
    assert Difference("worst", 0.5, 0.4, p=0.051).winner == ""
    assert Difference("worst", 0.5, 0.4).winner == ""
    nothing = Comparison("a", "b", "none", (), (0, 0), "union", "best", (), math.nan)
    assert nothing.verdict.startswith("0 seeds in common")


def test_a_subset_of_the_images_is_compared_on_that_subset(tmp_path):
    text = "pgd-20:per_class=30"
    outside = np.tile(np.arange(50) >= 30, 2)
    evaluation = Evaluation(best=("clean", text), last=("clean",))
    for method, right in (("sat", (40, 20)), ("trades", (25, 20))):
        verdicts = _verdicts(*right)
        attacked = np.where(outside, -2, verdicts.pop("best/pgd-20"))
        verdicts = {"best/clean": LABELS, f"best/{text}": attacked, "last/clean": LABELS}
        store(tmp_path / "results", run_spec(method, evaluation=evaluation), verdicts, labels=LABELS)
    (path,) = build_board(tmp_path)
    board = load_leaderboard(path)
    counts = board[(board["checkpoint"] == "best") & (board["seed"] == "0")].groupby("attack")["n"].unique()
    assert {attack: n.tolist() for attack, n in counts.items()} == {"clean": [100], text: [60], "union": [60]}
    found = compare_rows(path, "sat", "trades")
    worst, average, cat, dog = found.differences
    assert (worst.a, worst.b) == (20 / 30, 20 / 30)
    assert (cat.a, cat.b, dog.difference) == (1.0, 25 / 30, 0.0)
    assert average.a == 50 / 60
    # five images lost of five that differ: mid-p is 2 (1/32) less half the chance of that, twice 1/64
    assert cat.raw == pytest.approx(1 / 32)
    gated = {entry.method: entry for entry in read_evidence(path)}
    assert gated["sat"].counts.tolist() == [30, 30]
    assert gated["sat"].correct.tolist() == [30, 20]
    assert len(gated["sat"].labels) == len(gated["sat"].hits) == 60
    pair = Pair(gated["sat"], gated["trades"])
    require_comparable(pair, "union")
    assert pair.both.tolist() == [25, 20]
