"""The sentence that answers a benchmark, where several methods share the first rank."""

from __future__ import annotations

import pandas as pd
import pytest

from fairbench.leaderboard.merge import YOURS
from fairbench.report.text.answer import placed, sentence


def ranked(first: int, others: int) -> pd.DataFrame:
    """A ranking in which `first` methods have rank 1, and over seeds `others` are significantly behind."""
    count = first + others
    return pd.DataFrame(
        {
            "method": [f"m{number}" for number in range(count)],
            "role": False,
            "rank": [1] * first + [first + 1] * others,
            "seeds": 3,
            "worst": 0.25,
            "worst_std": 0.02,
            "behind_best": ["no"] * first + ["seeds"] * others,
        }
    )


@pytest.mark.parametrize(
    ("first", "others", "said"),
    [
        (1, 1, "m0 leads: worst class 25.0 ± 2.0 %; over seeds, the other is significantly behind."),
        (2, 1, "m0 and m1 lead: worst class 25.0 ± 2.0 %; over seeds, the other is significantly behind."),
        (2, 2, "m0 and m1 lead: worst class 25.0 ± 2.0 %; over seeds, all others are significantly behind."),
        (3, 1, "m0, m1 and m2 lead: worst class 25.0 ± 2.0 %; over seeds, the other is significantly behind."),
        (5, 1, "m0, m1 and 3 others lead: worst class 25.0 ± 2.0 %; over seeds, the other is significantly behind."),
        (1, 2, "m0 leads: worst class 25.0 ± 2.0 %; over seeds, all others are significantly behind."),
        (4, 0, "No method leads: the worst class of each of the 4 methods has 25.0 ± 2.0 %."),
    ],
)
def test_methods_that_share_the_first_rank_lead_together(first, others, said):
    assert sentence(ranked(first, others)) == said


@pytest.mark.parametrize(
    ("worst", "said"),
    [
        ([0.1, 0.3, 0.2], "The highest worst class is that of m1: 30.0 %."),
        ([0.3, 0.1, 0.3], "The highest worst class is that of m0 and m2: 30.0 %."),
        ([0.0, 0.0, 0.0], "The worst class of each of the 3 methods has 0.0 %."),
    ],
)
def test_without_ranks_every_method_with_the_highest_worst_class_is_named(worst, said):
    board = ranked(1, 2).assign(worst=worst, rank=None, worst_std=None, seeds=1)
    assert sentence(board) == f"Not ranked. {said}"


@pytest.mark.parametrize(
    ("behind", "said"),
    [
        (["no", "no", "no"], "no other is significantly behind"),
        (["no", "seeds", "seeds"], "the next is not significantly behind"),
        (["no", "no", "seeds"], "the next 2 are not significantly behind"),
        (["seeds", "no", "seeds"], "one other is not significantly behind"),
        (["no", "seeds", "no"], "2 others are not significantly behind"),
    ],
)
def test_a_leader_is_told_with_those_that_may_be_as_good(behind, said):
    board = ranked(1, 3).assign(behind_best=["no", *behind])
    assert sentence(board) == f"m0 leads: worst class 25.0 ± 2.0 %; over seeds, {said}."


def test_of_methods_that_lead_together_those_after_them_are_told():
    board = ranked(2, 2).assign(behind_best=["no", "no", "no", "seeds"], worst_std=[0.02, 0.04, 0.02, 0.02])
    leads = "m0 and m1 lead: worst class 25.0 %; "
    assert sentence(board) == f"{leads}over seeds, the next is not significantly behind."
    few = board.assign(seeds=[3, 2, 3, 3], behind_best=["no", None, "no", "seeds"])
    chance = "the difference may be chance: runs of 3 seeds a method are needed to compare 4 methods."
    assert sentence(few) == leads + chance


def test_methods_whose_runs_are_not_on_the_board_are_not_compared():
    """Such a board has rows over seeds alone; pandas tells the missing tests as NA."""
    missing = ranked(1, 3).assign(behind_best=pd.array([pd.NA] * 4, dtype="string"))
    said = "the difference may be chance: runs of 3 seeds a method are needed to compare 4 methods."
    assert sentence(missing).endswith(said)
    some = ranked(1, 3).assign(behind_best=pd.array(["no", pd.NA, "no", "seeds"], dtype="string"))
    said = "over seeds, one other is not significantly behind; 1 without runs of 3 seeds is not compared."
    assert sentence(some).endswith(said)


def test_a_method_with_too_few_seeds_is_not_compared():
    board = ranked(1, 3).assign(seeds=[3, 1, 5, 3], behind_best=["no", None, "no", "seeds"])
    leads = "m0 leads: worst class 25.0 ± 2.0 %; "
    said = "over seeds, one other is not significantly behind; 1 without runs of 3 seeds is not compared."
    assert sentence(board) == leads + said
    few = "the difference may be chance: runs of 3 seeds a method are needed to compare 4 methods."
    assert sentence(board.assign(seeds=[3, 1, 1, 2], behind_best=["no", None, None, None])) == leads + few
    assert sentence(board.assign(seeds=[2, 3, 5, 3], behind_best=[None, "no", "no", "no"])) == leads + few


def test_a_method_of_the_user_without_a_rank_is_told_why():
    board = ranked(1, 1).assign(whose=["committed", YOURS], average=0.5)
    board.loc[1, "rank"] = None
    (line,) = placed(board)
    assert line.startswith("Yours: m1, not ranked (its tuning budget is not that of the ranked methods): worst class")
    (line,) = placed(board.assign(rank=None))
    assert line.startswith("Yours: m1, not ranked: worst class")
