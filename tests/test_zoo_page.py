"""docs/zoo.py says which class of a model is least robust, and docs/zoo.md is what it writes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from doc_scripts import doc_script
from fabricated import store, verdicts

from fairbench.leaderboard import builder

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def zoo() -> ModuleType:
    return doc_script("zoo")


def test_a_class_that_is_clearly_lowest_is_the_worst_alone(zoo):
    counts = np.full(4, 1000)
    assert zoo.worst_set(np.array([500, 100, 520, 900]), counts) == [1]


def test_classes_that_nothing_tells_apart_may_all_be_the_worst(zoo):
    counts = np.full(4, 50)
    assert zoo.worst_set(np.array([20, 20, 20, 20]), counts) == [0, 1, 2, 3]
    assert zoo.worst_set(np.array([10, 12, 11, 45]), counts) == [0, 1, 2]


def test_the_correction_is_over_all_pairs(zoo):
    # 27 and 38 of 50 have p = 0.035 by Fisher's test, which alone would be significant and of three pairs is not
    assert zoo.worst_set(np.array([27, 38]), np.full(2, 50)) == [0]
    assert zoo.worst_set(np.array([27, 38, 33]), np.full(3, 50)) == [0, 1, 2]


def test_a_board_becomes_a_row_a_model(zoo, tmp_path):
    for name, right in (("one", [10, 30, 45]), ("two", [12, 40, 41])):
        labels, robust = verdicts(right, 50)
        store(
            tmp_path / "results",
            labels,
            {"clean": labels, "cw-30": robust},
            method=name,
            suite="zoo-small",
            names=["ant", "bee", "cat"],
        )
    builder.build_boards(tmp_path / "results", tmp_path / "leaderboards", "zoo-small")
    text = zoo.page(tmp_path)
    assert "| one | 100.0 | 56.7 | ant 20.0 [" in text
    assert "may be the worst of every model: ant." in text
    assert "Not measured: no board is committed." in text  # zoo-small-2px


def test_the_page_is_what_the_command_writes(zoo):
    assert (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8") == zoo.page(ROOT)
