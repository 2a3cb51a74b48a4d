from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from stored import build_board, run_spec, store

from fairbench import load_leaderboard
from fairbench.leaderboard.ranking import ranking
from fairbench.leaderboard.unrounded import unrounded
from fairbench.report.text.board import show_board
from fairbench.statistics.metrics import OUTSIDE
from fairbench.suites.sections import Evaluation


def _board(tmp_path, kept):
    """Three classes of three images; `kept` are those that withstand, by seed and class."""
    labels = np.repeat([0, 1, 2], 3)
    for seed, classes in enumerate(kept):
        right = np.concatenate([np.arange(3) < count for count in classes])
        verdicts = {"best/clean": labels, "best/pgd-20": np.where(right, labels, -1), "last/clean": labels}
        store(tmp_path / "results", run_spec(seed=seed), verdicts, labels=labels, names=("a", "b", "c"))
    (path,) = build_board(tmp_path)
    return path


def test_accuracies_are_whole_images_again_and_means_are_made_of_them(tmp_path):
    path = _board(tmp_path, [(1, 2, 3), (2, 2, 1), (1, 3, 3)])
    board = load_leaderboard(path)
    rows = board[(board["attack"] == "union") & (board["checkpoint"] == "best")]
    found = unrounded(rows).set_index("seed")
    assert rows.set_index("seed").loc["0", "worst"] == 0.3333
    assert found.loc["0", ["worst", "class_1", "average"]].tolist() == [1 / 3, 2 / 3, 6 / 9]
    assert found.loc["0", "nsd"] == pytest.approx(np.std([1 / 3, 2 / 3, 1]) / (2 / 3), abs=1e-12)
    assert found.loc["mean", "worst"] == pytest.approx(1 / 3, abs=1e-12)
    assert found.loc["mean", "class_0"] == pytest.approx(4 / 9, abs=1e-12)
    assert found.loc["std", "class_0"] == pytest.approx(np.std([1, 2, 1], ddof=1) / 3, abs=1e-12)


def test_each_attack_is_restored_by_the_images_that_it_saw(tmp_path):
    """Of 5,001 images the average alone does not give a number, the classes do. The other attack saw three a class."""
    labels = np.repeat([0, 1, 2], 1667)
    right = np.concatenate([np.arange(1667) < count for count in (1000, 1001, 1003)])
    part = np.where(np.arange(5001) % 1667 < 3, labels, OUTSIDE)
    verdicts = {"best/clean": np.where(right, labels, -1), "best/pgd-20:per_class=3": part, "last/clean": labels}
    spec = run_spec(seed=0, evaluation=Evaluation(best=("clean", "pgd-20:per_class=3"), last=("clean",)))
    store(tmp_path / "results", spec, verdicts, labels=labels, names=("a", "b", "c"))
    (path,) = build_board(tmp_path)
    board = load_leaderboard(path)
    found = unrounded(board[(board["checkpoint"] == "best") & (board["seed"] == "0")]).set_index("attack")
    shares = np.array([1000, 1001, 1003]) / 1667
    assert found.loc["clean", "average"] == pytest.approx(3004 / 5001, abs=1e-12)
    assert found.loc["clean", "nsd"] == pytest.approx(shares.std() / shares.mean(), abs=1e-12)
    assert found.loc["pgd-20:per_class=3", "average"] == 1.0


def test_a_share_that_no_number_of_images_gives_stays(tmp_path):
    board = load_leaderboard(_board(tmp_path, [(1, 2, 3)]))
    changed = board.assign(class_0=board["class_0"].where(board["attack"] == "clean", 0.4))
    assert set(unrounded(changed)["class_0"].dropna()) == {0.4, 1.0}
    assert unrounded(board.iloc[:0]).empty


def test_tables_round_once(tmp_path):
    """Deviations of 0.19245: written as 0.1925 and rounded again they would read 19.3, and are 19.2."""
    path = _board(tmp_path, [(1, 3, 3), (1, 3, 3), (2, 3, 3)])
    assert ranking(load_leaderboard(path))["worst_std"].iloc[0] == pytest.approx(np.std([1, 1, 2], ddof=1) / 3)
    assert "44.4 ± 19.2" in show_board(path)
    assert "44.4 ± 19.2" in show_board(path, attack="all")


def test_means_without_their_runs_stay_as_they_are(tmp_path):
    board = load_leaderboard(_board(tmp_path, [(1, 2, 3), (2, 2, 1)]))
    over = board[board["seed"].isin(["mean", "std"])]
    pd.testing.assert_frame_equal(unrounded(over), over)
