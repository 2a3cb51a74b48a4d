from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fairbench.errors import InvalidInput
from fairbench.statistics.tiers import tiers

# The seeds' own shift, the same for all methods, must not count as spread.
SEEDS = np.array([-5.0, 0.0, 5.0])


def test_tiers_by_hand():
    """Residuals of 1, -2, 1 and -1, 2, -1 give a pooled variance of 12 / (3 * 2) = 2 for four methods.

    Tukey's range of 4 methods with 6 degrees of freedom at 5 % is 4.896 (tables): a distance counts beyond
    4.896 * sqrt(2 / 3) = 3.998, if the pair itself spreads no more.
    """
    wobble = np.array([1.0, -2.0, 1.0])
    signs = np.array([1.0, -1.0, 0.0, 0.0])

    def table(*means: float) -> np.ndarray:
        return np.array(means)[:, None] + signs[:, None] * wobble + SEEDS

    # the first pair spreads most: differences of 2, -4, 2 have variance 12, half of it 6 where the pooled is 2
    assert tiers(table(10.0, 10.0 - 6.8, 1.0, 1.0)) == [1, 1, 2, 2]  # 4.896 * sqrt(6 / 3) = 6.92
    assert tiers(table(10.0, 10.0 - 7.0, 1.0, 1.0)) == [1, 2, 2, 2]
    assert tiers(table(10.0, 10.0, 6.1, 1.0)) == [1, 1, 1, 2]
    assert tiers(table(10.0, 10.0, 5.9, 1.0)) == [1, 1, 2, 3]


def test_an_erratic_method_takes_those_above_it_into_its_tier():
    """As by hand above, but the pair that spreads is the best and the third: its distance counts beyond 6.92 alone."""
    wobble = np.array([1.0, -2.0, 1.0])
    means, signs = np.array([10.0, 4.0, 3.2, 3.1]), np.array([1.0, 0.0, -1.0, 0.0])
    values = means[:, None] + signs[:, None] * wobble + SEEDS
    # the second is 6 below the best, beyond 3.998 and sqrt(6 / 4) * 4.896 / sqrt(3) = 3.46; the third 6.8, within 6.92
    assert tiers(values) == [1, 1, 1, 2]
    assert tiers(values[:2]) == [1, 2]


def test_a_place_given_by_a_board_stands_over_the_mean_of_the_seeds_in_common():
    values = np.array([[2.0] * 3, [3.0] * 3, [1.0] * 3]) + SEEDS
    assert tiers(values) == [2, 1, 3]
    assert tiers(values, ranks=[1, 2, 3]) == [1, 1, 2]


@given(arrays(np.float64, (6, 3), elements=st.floats(-100, 100, width=32)))
def test_no_method_is_in_a_better_tier_than_one_ranked_above_it(values):
    found = np.array(tiers(values))[np.argsort(-values.mean(axis=1), kind="stable")].tolist()
    assert found == sorted(found)
    assert found[0] == 1
    assert set(found) == set(range(1, max(found) + 1))


def test_the_order_and_the_unit_do_not_matter():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 2, (9, 4)) + np.repeat([0.0, 30.0, 60.0], 3)[:, None]
    found = tiers(values)
    assert found == [3] * 3 + [2] * 3 + [1] * 3
    order = rng.permutation(9)
    assert tiers(values[order]) == [found[index] for index in order]
    assert tiers(values / 100 + 7) == found


def test_equal_methods_are_seldom_parted_and_a_worse_one_is():
    rng = np.random.default_rng(1)
    draws = 200
    noise = rng.normal(0, 4, (draws, 24, 3))
    alone = sum(max(tiers(values)) > 1 for values in noise)
    assert alone <= 0.05 * draws + 3 * (0.05 * 0.95 * draws) ** 0.5
    noise[:, 0] -= 20
    assert sum(tiers(values)[0] > 1 for values in noise) > 0.9 * draws


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [1.0, 2.0, 3.0], [[1.0, float("nan"), 2.0]], []])
def test_less_than_three_seeds_of_every_method_is_refused(values):
    with pytest.raises(InvalidInput, match="for 3 seeds"):
        tiers(values)


def test_methods_without_any_spread_are_told_apart():
    assert tiers([[0.5] * 3, [0.5] * 3, [0.4] * 3]) == [1, 1, 2]
    assert tiers([[0.5] * 3]) == [1]
