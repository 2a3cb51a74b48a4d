from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fairbench import load_leaderboard
from fairbench.report.flows import confusion_over, flow_matrix, runs_by_method, shares
from fairbench.results.folder import RunFolder

ROOT = Path(__file__).parents[2]
LABELS = np.array([0, 0, 1, 1])


PROTOCOLS = {"1": {"hash": "p", "best": ["clean", "pgd-20"], "last": []}, "2": {"hash": "q", "best": ["clean"]}}
BOARD = ROOT / "leaderboards/cifar10-micro/v1.csv"


@pytest.fixture
def runs(tmp_path):
    """Two runs of two classes; in the first, an image is misclassified before the attack."""
    made = []
    for last in (-1, 1):
        folder = RunFolder(tmp_path / f"run{last}")
        clean, attacked = np.array([0, 0, 1, 0]), np.array([0, 1, 1, last])
        folder.write_verdicts(LABELS, {"best/clean": clean, "best/pgd-20": attacked})
        made.append((folder, {"class_names": ["cat", "dog"], "protocols": PROTOCOLS}))
    return made


def test_images_are_counted_over_seeds_by_the_class_of_their_first_break(runs):
    assert confusion_over(runs, "p").tolist() == [[2, 2], [2, 2]]
    assert confusion_over(runs, "p", attack="pgd-20").tolist() == [[2, 2], [0, 3]]
    assert confusion_over(runs, "q").tolist() == [[4, 0], [2, 2]]
    assert confusion_over(runs, "p", attack="cw-30").size == 0


def test_shares_are_of_a_class_and_a_class_without_images_has_none():
    divided = shares(np.array([[3, 1], [0, 0]]))
    assert divided[0].tolist() == [0.75, 0.25]
    assert np.isnan(divided[1]).all()


def test_runs_are_those_of_the_board_and_no_others():
    board = load_leaderboard(BOARD)
    found = runs_by_method(board, ROOT / "results")
    assert sorted(found) == sorted(set(board["method"]))
    assert {record["run_id"] for runs in found.values() for _, record in runs} == set(board["run_id"].dropna())
    assert runs_by_method(board.assign(run_id="other"), ROOT / "results") == {}
    assert runs_by_method(board.assign(suite="../results"), ROOT / "results") == {}


def test_a_flow_is_that_of_the_runs_verdicts():
    board = load_leaderboard(BOARD)
    matrix, names = flow_matrix(board, "absld", ROOT / "results", attack="clean")
    assert names[:2] == ["airplane", "automobile"]
    assert matrix.sum(axis=1) == pytest.approx(np.ones(10))


def test_images_outside_an_attacks_subset_flow_nowhere(tmp_path):
    folder, text = RunFolder(tmp_path / "run"), "pgd-20:per_class=1"
    folder.write_verdicts(LABELS, {"best/clean": np.array([0, 0, 1, 0]), f"best/{text}": np.array([1, -2, 1, -2])})
    record = {"class_names": ["cat", "dog"], "protocols": {"1": {"hash": "p", "best": ["clean", text]}}}
    assert confusion_over([(folder, record)], "p").tolist() == [[0, 1], [0, 1]]
