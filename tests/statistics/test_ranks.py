from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fairbench.errors import InvalidInput
from fairbench.statistics.ranks import behind_the_best, pair_errors, rank_intervals


def test_errors_of_pairs_by_hand():
    # Variances 1 and 4 beside a typical 2: the pair has 4; three seeds against six: 4 (1/3 + 1/6) = 2.
    found = pair_errors([1.0, 4.0], [3, 6], 2.0)
    assert found.tolist() == [[0.0, pytest.approx(2**0.5)], [pytest.approx(2**0.5), 0.0]]
    assert pair_errors([1.0, 4.0], [3, 6], 2.0, [0.5, 1.5])[0, 1] == 2.0
    assert pair_errors([0.0, 1.0], [3, 6], 2.0)[0, 1] == 1.0  # never below the board's typical variance


def test_intervals_by_hand():
    # With 1000 degrees of freedom two tests need p of 0.025 and 0.05: distances of 2.24 and 1.96 errors.
    errors = np.ones((3, 3)) - np.eye(3)
    first, last = rank_intervals([5.0, 4.0, 1.0], errors, 1000)
    assert (first.tolist(), last.tolist()) == ([1, 1, 3], [2, 2, 3])
    assert behind_the_best([5.0, 4.0, 1.0], errors, 1000).tolist() == [False, False, True]
    # Tukey's range of three: 3.31 / sqrt 2 = 2.34 errors.
    assert behind_the_best([5.0, 2.7, 2.6], errors, 1000).tolist() == [False, False, True]
    assert behind_the_best([5.0], np.zeros((1, 1)), 10).tolist() == [False]


def test_what_has_no_error_is_told_if_it_differs_and_only_then():
    first, last = rank_intervals([2.0, 1.0, 1.0], np.zeros((3, 3)), 4)
    assert (first.tolist(), last.tolist()) == ([1, 2, 2], [1, 3, 3])


@given(arrays(np.float64, 6, elements=st.floats(-50, 50)), st.floats(0.1, 20))
@settings(deadline=None, max_examples=60)
def test_an_interval_holds_the_observed_rank(means, error):
    errors = np.full((6, 6), error)
    first, last = rank_intervals(means, errors, 12)
    own = 1 + np.sum(means[None, :] > means[:, None] + 1e-9, axis=1)
    assert np.all(first <= own)
    assert np.all(own <= last)
    assert not behind_the_best(means, errors, 12)[np.argmax(means)]


@pytest.mark.parametrize(("means", "errors"), [([], []), ([1.0], [[0.0, 1.0]]), ([np.nan], [[0.0]]), ([1.0], [[-1.0]])])
def test_bad_input_is_refused(means, errors):
    with pytest.raises(InvalidInput, match="ranks need"):
        rank_intervals(means, errors, 4)
