"""The sentence that answers a benchmark, where several methods share the first rank."""

from __future__ import annotations

import pandas as pd
import pytest

from fairbench.report.text.answer import sentence


def ranked(first: int, others: int) -> pd.DataFrame:
    """A ranking in which `first` methods have rank 1, and seeds tell `others` from them."""
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
        (1, 1, "m0 leads: worst class 25.0 ± 2.0 %; seeds tell it from all others."),
        (2, 1, "m0 and m1 lead: worst class 25.0 ± 2.0 %; seeds do not tell it from the next."),
        (3, 1, "m0, m1 and m2 lead: worst class 25.0 ± 2.0 %; seeds do not tell it from the next 2."),
        (5, 1, "m0, m1 and 3 others lead: worst class 25.0 ± 2.0 %; seeds do not tell it from the next 4."),
        (4, 0, "No method leads: the worst class of each of the 4 methods has 25.0 ± 2.0 %."),
    ],
)
def test_methods_that_share_the_first_rank_lead_together(first, others, said):
    assert sentence(ranked(first, others)) == said
