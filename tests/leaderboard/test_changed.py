from __future__ import annotations

import pandas as pd
import pytest

from fairbench.leaderboard.changed import changed_settings, why_unranked

RUN = "fairbench run digits --methods sat"


@pytest.mark.parametrize(
    ("commands", "settings"),
    [
        ([RUN, "fairbench run 'digits"], []),
        ([f"{RUN} --set model=vgg16 --jobs 1", f"{RUN} --jobs 2 --set=model=vgg16"], ["model=vgg16"]),
        (
            [f"{RUN} --set 'selection.attack=a: steps=3' --set a.b=1"],
            ["selection.attack=a: steps=3", "a.b=1"],
        ),
        ([f"{RUN} --precision bf16", f"{RUN} --set"], ["recipe.precision=bf16"]),
    ],
)
def test_settings_are_those_that_the_commands_change(commands, settings):
    assert changed_settings(commands) == settings


def test_a_board_says_why_it_is_not_ranked():
    board = pd.DataFrame({"quick": pd.array([False, pd.NA], "boolean"), "command": [f"{RUN} --set model=vgg16", None]})
    assert why_unranked(board, ranked=True) == ""
    assert why_unranked(board, ranked=False) == "model=vgg16, not ranked"
    assert why_unranked(board.assign(command=pd.NA), ranked=False) == "settings of its own, not ranked"
    assert why_unranked(board.assign(quick=True), ranked=True) == "quick: a smoke test, not ranked"
