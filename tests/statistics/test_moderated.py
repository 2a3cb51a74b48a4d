from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chi2, t

from fairbench.errors import InvalidInput
from fairbench.statistics.moderated import (
    WIDE,
    Spread,
    board_spread,
    class_ratio,
    difference_detectable,
    middle_variance,
    moderated_test,
    pair_variance,
    typical_variance,
)


def test_the_typical_variance_by_hand():
    # Two degrees of freedom: squares of 4 and 2 over 1 + 2 / 2, their mean 5, its root; the 0 is left out.
    assert float(typical_variance([4.0, 2.0, 0.0], [2, 2, 2])) == pytest.approx(5**0.5)
    assert float(typical_variance([0.0, 0.0], [2, 2])) == 0.0
    assert typical_variance(np.ones((3, 4)), np.full(4, 2)).shape == (3,)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_typical_variance_of_equal_methods_is_theirs(seeds):
    drawn = np.random.default_rng(0).normal(0, 3, (2000, 40, seeds)).var(axis=2, ddof=1)
    assert typical_variance(drawn, np.full(40, seeds - 1)).mean() == pytest.approx(9, rel=0.03)


def test_the_middle_variance_by_hand():
    # A chi-square variable with two degrees of freedom has mean 2 and median 2 log 2.
    assert float(middle_variance([4.0, 2.0, 0.0, 9.0], [2, 2, 2, 2])) == pytest.approx(4 / np.log(2))
    assert float(middle_variance([4.0, 0.0, 9.0], [2, 2, 2])) == pytest.approx(6.5 / np.log(2))
    assert float(middle_variance([5.0], [4])) == pytest.approx(5 * 4 / chi2.median(4))
    assert float(middle_variance([0.0, 0.0], [2, 2])) == 0.0
    rows = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 7.0], [0.0, 0.0, 0.0]])
    assert middle_variance(rows, [2, 2, 2]).tolist() == [float(middle_variance(row, [2, 2, 2])) for row in rows]


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_middle_variance_of_equal_methods_is_theirs_whatever_a_few_others_do(seeds):
    drawn = np.random.default_rng(0).normal(0, 3, (2000, 40, seeds)).var(axis=2, ddof=1)
    assert middle_variance(drawn, np.full(40, seeds - 1)).mean() == pytest.approx(9, rel=0.05)
    drawn[:, :2] *= 400
    assert middle_variance(drawn, np.full(40, seeds - 1)).mean() == pytest.approx(9, rel=0.12)


def test_the_class_ratio_by_hand():
    assert class_ratio([2.0, 6.0], [1.0, 2.0]) == 2.5
    assert class_ratio([2.0, 6.0, 9.0], [1.0, 2.0, 0.0]) == 2.5
    assert class_ratio([2.0], [0.0]) == 1.0


def test_a_method_whose_classes_vary_widely_is_given_a_variance_to_match():
    a, b, spread = [0.30, 0.32, 0.34], [0.20, 0.20, 0.20], Spread(0.0016, 40, 0.0010)

    def p(variance):
        return pytest.approx(2 * t.sf(0.12 / (variance * 2 / 3) ** 0.5, 40))

    assert moderated_test(a, b, spread, ratios=(WIDE, 1.0)).p == p(0.0010)
    assert moderated_test(a, b, spread, ratios=(4.0, 1.0)).p == p(0.0040)
    assert moderated_test(b, a, spread, ratios=(1.0, 4.0)).p == p(0.0040)
    # A figure that is the same in all seeds, such as a worst class at 0 %, says that it does not vary.
    assert moderated_test(a, b, spread, ratios=(1.0, 4.0)).p == p(0.0010)
    assert moderated_test(a, b, spread, ratios=(3.0, 9.0), one_of_many=True).p == p(0.0030)


def test_a_pair_has_its_larger_variance_at_least_and_shares_in_the_boards():
    assert float(pair_variance(1.0, 4.0, 2.0)) == 4.0
    assert float(pair_variance(1.0, 0.0, 7.0)) == 4.0
    assert pair_variance(np.zeros(3), np.ones(3), 3.0).tolist() == [2.0, 2.0, 2.0]


def test_a_board_spread_leaves_out_single_runs_and_runs_that_are_all_equal():
    found = board_spread([[0.1, 0.3], [0.2, 0.2, 0.2], [0.5], [0.0, 0.2, 0.4, 0.6]])
    variances = np.array([0.02, np.var([0.0, 0.2, 0.4, 0.6], ddof=1)])
    typical, middle = typical_variance(variances, [1, 3]), middle_variance(variances, [1, 3])
    assert found == Spread(pytest.approx(float(typical)), 4, pytest.approx(float(middle)))
    assert board_spread([[0.1], [0.2, 0.2]]) == Spread(0.0, 0)


def test_the_test_by_hand():
    a, b, spread = [0.30, 0.32, 0.34], [0.20, 0.20, 0.20], Spread(0.0016, 40)
    # Variances 0.0004 and 0: the larger is averaged with 0.0016 to 0.001; the error is its root times sqrt(2 / 3).
    error = (0.001 * 2 / 3) ** 0.5
    found = moderated_test(a, b, spread)
    assert found.p == pytest.approx(2 * t.sf(0.12 / error, 40))
    reach = t.isf(0.025, 40) * error
    assert (found.low, found.high) == pytest.approx((0.12 - reach, 0.12 + reach))
    many = moderated_test(a, b, spread, one_of_many=True)
    assert many.p == pytest.approx(2 * t.sf(0.12 / (0.0016 * 2 / 3) ** 0.5, 40))
    assert moderated_test(b, a, spread).p == pytest.approx(found.p)
    assert moderated_test(a, b, Spread(0.0, 0)).p == pytest.approx(2 * t.sf(0.12 / (0.0004 * 2 / 3) ** 0.5, 4))


def test_where_nothing_varies_signs_alone_can_tell():
    nothing = Spread(0.0, 0)
    assert moderated_test([0.5] * 3, [0.4] * 3, nothing).p == 0.25
    assert moderated_test([0.5] * 3, [0.5] * 3, nothing).p == 1.0
    assert moderated_test([0.5] * 7, [0.4] * 7, nothing).p == 2 * 0.5**7
    assert [difference_detectable(nothing, seeds) for seeds in (3, 5, 6)] == [math.inf, math.inf, 0.0]


@pytest.mark.parametrize("figures", [[0.5, 0.4], [0.5, 0.4, float("nan")], [[0.5, 0.4, 0.3]]])
def test_the_test_needs_three_figures(figures):
    with pytest.raises(InvalidInput, match="needs 3 finite figures"):
        moderated_test(figures, [0.1, 0.2, 0.3], Spread(0.01, 10))


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_difference_detectable_is_found_by_the_test_as_often_as_it_says(seeds):
    rng, methods, draws = np.random.default_rng(1), 24, 1500
    reach = difference_detectable(Spread(0.045**2, methods * (seeds - 1)), seeds)
    hits = 0
    for _ in range(draws):
        board = rng.normal(0, 0.045, (methods, seeds))
        hits += moderated_test(board[0] + reach, board[1], board_spread(board)).p <= 0.05
    assert hits / draws == pytest.approx(0.8, abs=0.03)
    assert difference_detectable(Spread(0.0, 0), seeds) == math.inf  # 2 * 0.5**seeds is more than 5 %
    with pytest.raises(InvalidInput, match="needs 3 seeds"):
        difference_detectable(Spread(0.1, 10), 2)
