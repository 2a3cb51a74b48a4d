"""The examples of docs/conclusions.md are figures of the board that the page names."""

from __future__ import annotations

import re
from pathlib import Path

from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.ranking import ranking

ROOT = Path(__file__).parents[2]


def test_the_examples_are_figures_of_the_board_that_the_page_names():
    text = (ROOT / "docs" / "conclusions.md").read_text(encoding="utf-8")
    suite, version = re.search(r"fairbench leaderboard show (\w+)/(v\d+)", text).groups()
    rows = ranking(load_leaderboard(ROOT / "leaderboards" / suite / f"{version}.csv")).set_index("method")
    teacher, first, name = rows.loc["teacher"], rows.iloc[0], rows.index[0].upper()
    examples = (
        f"has a robust accuracy between {100 * teacher['worst_lo']:.1f} and {100 * teacher['worst_hi']:.1f} %",
        f"{name} trains here lies between {100 * first['true_worst_lo']:.1f} and {100 * first['true_worst_hi']:.1f} %",
        f"{name}'s rank lies between {first['rank_lo']} and {first['rank_hi']}.",
    )
    assert [example for example in examples if example not in text] == []
    assert (f"No method is better than {name} beyond chance" in text) == (first["behind_best"] == "no")
