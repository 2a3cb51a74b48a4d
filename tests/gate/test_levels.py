"""How alpha is divided: shares, Holm's procedure with weights, and alpha spending."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairbench.errors import InvalidInput
from fairbench.gate.levels import adjusted, share, spent
from fairbench.statistics.significance import holm


def test_the_default_gives_worst_and_average_half_and_the_classes_the_rest():
    every = ("worst", "average", "class")
    assert [share(name, every, members) for name, members in zip(every, (1, 1, 10), strict=True)] == [0.25, 0.25, 0.05]
    assert share("worst", ("worst",), 1) == 1
    assert share("average", ("worst", "average"), 1) == 0.5
    assert share("class", ("class",), 4) == 0.25


def test_holm_with_weights_by_hand():
    # p / share: 0.04, 0.02, 0.2. Steps: 0.02 * 1, then 0.04 * (1 - 0.5), then 0.2 * 0.25.
    assert adjusted([0.01, 0.01, 0.05], [0.25, 0.5, 0.25]) == pytest.approx([0.02, 0.02, 0.05])
    assert adjusted([1.0, 0.4], [0.5, 0.5]) == pytest.approx([1.0, 0.8])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_equal_shares_are_holms_procedure(p):
    assert adjusted(p, np.full(len(p), 1 / len(p))) == pytest.approx(holm(p))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 1)), min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_something_is_rejected_exactly_when_a_p_is_at_most_its_share_of_alpha(pairs, alpha):
    p, weights = (np.array(values) for values in zip(*pairs, strict=True))
    shares = weights / weights.sum()
    found = adjusted(p, shares)
    if abs((p / shares).min() - alpha) > 1e-12:
        assert (found.min() <= alpha) == bool(np.any(p <= alpha * shares))
    assert np.all(found >= p - 1e-12)


def test_vectors_that_cannot_be_are_refused():
    for p, shares in (([1.1], [1.0]), ([0.5], [0.5]), ([0.5, 0.5], [1.0]), ([0.5, 0.5], [1.0, 0.0]), ([np.nan], [1.0])):
        with pytest.raises(InvalidInput):
            adjusted(p, shares)


def test_what_all_planned_runs_spend_is_alpha():
    assert spent(0.05, 1) == 0.05
    assert 365 * spent(0.05, 365) == pytest.approx(0.05)
    with pytest.raises(InvalidInput, match="must be 1 to 1000000, not 0"):
        spent(0.05, 0)
    with pytest.raises(InvalidInput, match="must be 1 to 1000000, not 100000000000"):
        spent(0.05, 10**400)
