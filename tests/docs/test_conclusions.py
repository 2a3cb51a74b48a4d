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
    teacher, frl = rows.loc["teacher"], rows.loc["frl"]
    examples = (
        f"has a robust accuracy between {100 * teacher['worst_lo']:.1f} and {100 * teacher['worst_hi']:.1f} %",
        f"FRL trains here lies between {100 * frl['true_worst_lo']:.1f} and {100 * frl['true_worst_hi']:.1f} %",
        f"FRL's rank lies between {frl['rank_lo']} and {frl['rank_hi']}.",
    )
    assert [example for example in examples if example not in text] == []
    assert ("No method is better than FRL beyond chance" in text) == (frl["behind_best"] == "no")
