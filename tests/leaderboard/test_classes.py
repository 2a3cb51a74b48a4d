"""The classes of a leaderboard: how many share the lowest accuracy of a run, by hand, and those of the sibling file."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stored import build_board, run_spec, store

from fairbench.errors import CorruptFile
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.classes import class_columns, named_worst, shared_worst, with_classes

NAN = float("nan")


@pytest.mark.parametrize(
    ("accuracies", "named", "shared"),
    [
        ([[0.5, 0.2, 0.9]], 1, 0),
        ([[0.2, 0.2, 0.9]], 1, 1),
        ([[0.0, 0.0, 0.0]], 1, 2),
        ([[0.1, 0.2, 0.9], [0.3, 0.2, 0.9]], 2, 0),
        ([[0.1, 0.1, 0.9], [0.2, 0.9, 0.2]], 1, 2),  # a class is counted once, in whichever run it is low
        ([[NAN, 0.2, 0.2]], 1, 1),
        ([[NAN, NAN, NAN]], 1, 0),
        ([[NAN, NAN, NAN], [0.1, 0.1, 0.3]], 1, 1),
    ],
)
def test_further_classes_as_low_as_the_worst_of_a_run(accuracies, named, shared):
    assert shared_worst(np.array(accuracies), named) == shared


def test_the_worst_classes_of_runs_are_named_once():
    runs = pd.DataFrame({"worst_class": ["cat", "dog", "cat"], "class_0": [0.1, 0.3, 0.1], "class_1": [0.2, 0.1, 0.1]})
    assert named_worst(runs) == "cat, dog"
    assert named_worst(runs[:1].assign(class_1=0.1)) == "cat +1"
    assert named_worst(runs.drop(columns=["class_0", "class_1"])) == "cat, dog"


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A leaderboard of 25 classes of four images with two seeds, with its sibling file."""
    labels = np.arange(100) % 25
    for seed in (0, 1):
        predicted = {
            "best/clean": labels,
            "best/pgd-20": np.where(np.arange(100) < 25, 0, labels),
            "last/clean": labels,
        }
        names = [f"kind {number}" for number in range(25)]
        store(tmp_path / "results", run_spec(seed=seed), predicted, names=names, labels=list(labels))
    return build_board(tmp_path)[0]


def test_classes_of_the_sibling_file_join_the_board(board: Path) -> None:
    found = with_classes(board, load_leaderboard(board))
    assert class_columns(list(found)) == [f"class_{number}" for number in range(25)]
    run = found[(found["attack"] == "pgd-20") & (found["seed"] == "0")].iloc[0]
    assert [run["class_0"], run["class_1"], run["n_class_1"]] == [1.0, 0.75, 4]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda table: table.assign(class_3=0.9), "sat 0 best clean: worst 1 is not what its classes give"),
        (
            lambda table: table.assign(class_3=table["class_3"].where(table["attack"] != "pgd-20", 0.8)),
            "sat 0 best pgd-20: average 0.76 is not what its classes give",
        ),
        (lambda table: table.assign(class_3=1.2), "sat 0 best clean: class_3 1.2 is not an accuracy"),
        (lambda table: table.assign(class_3=-0.1), "class_3 -0.1 is not an accuracy"),
        (lambda table: table.assign(class_3="abc"), "could not convert"),
        (lambda table: table.assign(n_class_3=-7), "n_class_3 -7 is not a number of images"),
        (lambda table: table.assign(n_class_3=2.5), "n_class_3 2.5 is not a number of images"),
        (lambda table: table.assign(n_class_3=math.inf), "n_class_3 inf is not a number of images"),
        (lambda table: table.assign(n_class_3=5), "n 100 is not what its classes give"),
        (lambda table: table.rename(columns={"class_3": "class_²"}), "column 'class_²'"),
        (lambda table: table.rename(columns={"class_3": "class_" + "9" * 5000}), "column 'class_999"),
        (lambda table: table.rename(columns={"class_3": "class_4"}), "column 'class_4.1'"),
        (lambda table: table.drop(columns="run_id"), "run_id"),
    ],
)
def test_classes_that_cannot_be_or_give_other_figures_are_refused(
    board: Path, damage: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    """They take the place of the figures of the board, so they must be those that it was made of."""
    beside = board.with_name("v1.classes.csv")
    damage(pd.read_csv(beside)).to_csv(beside, index=False)
    with pytest.raises(CorruptFile, match=f"not the classes of v1.csv: .*{words}") as caught:
        with_classes(board, load_leaderboard(board))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
