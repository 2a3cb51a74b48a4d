from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from fairbench.errors import InvalidInput
from fairbench.statistics.intervals import clopper_pearson, worst_intervals


def test_clopper_pearson_by_hand():
    # All or none of n right: the open end solves share^n = alpha/2.
    lo, hi = clopper_pearson([0, 10, 1], [10, 10, 1])
    np.testing.assert_allclose(lo, [0, 0.025**0.1, 0.025])
    np.testing.assert_allclose(hi, [1 - 0.025**0.1, 1, 1])


def test_clopper_pearson_broadcasts_and_has_no_interval_without_trials():
    lo, hi = clopper_pearson([[0], [5]], [10, 20])
    assert lo.shape == hi.shape == (2, 2)
    lo, hi = clopper_pearson(0, 0)
    assert np.isnan(lo)
    assert np.isnan(hi)


@given(st.data(), st.integers(1, 10_000), st.sampled_from([0.0005, 0.005, 0.05, 0.3]))
@settings(deadline=None, max_examples=60)
def test_clopper_pearson_agrees_with_scipys_root_finder(data, n, alpha):
    k = data.draw(st.integers(0, n))
    lo, hi = clopper_pearson(k, n, alpha)
    expected = binomtest(k, n).proportion_ci(1 - alpha, method="exact")
    assert float(lo) == pytest.approx(expected.low, rel=1e-6, abs=1e-9)
    assert float(hi) == pytest.approx(expected.high, rel=1e-6, abs=1e-9)
    assert 0 <= lo <= k / n <= hi <= 1


@pytest.mark.parametrize("n", [1, 2, 10, 50, 100, 1000])
def test_clopper_pearson_covers_at_every_share(n):
    # Summed over the binomial distribution, not sampled: no share may be covered less often than 95 %.
    k = np.arange(n + 1)
    lo, hi = clopper_pearson(k, np.full(n + 1, n))
    for share in np.linspace(0, 1, 101):
        assert binom.pmf(k, n, share)[(lo <= share) & (share <= hi)].sum() >= 0.95 - 1e-9


def test_clopper_pearson_covers_on_average_in_simulation():
    rng = np.random.default_rng(0)
    truth = rng.random(20_000)
    n = rng.integers(1, 1001, size=len(truth))
    lo, hi = clopper_pearson(rng.binomial(n, truth), n)
    assert 0.95 <= np.mean((lo <= truth) & (truth <= hi)) <= 0.98


@pytest.mark.parametrize(
    ("successes", "trials", "alpha", "words"),
    [
        (3, 2, 0.05, "3 successes in 2 trials"),
        ([1, -1], [2, 2], 0.05, r"-1 successes in 2 trials \(element 1\)"),
        (0.5, 2, 0.05, "successes must be whole numbers, not float64"),
        (1, 2, 0.0, "alpha must lie between 0 and 1, not 0.0"),
        (1, 2, 1.0, "alpha"),
        (1, 2, float("nan"), "alpha"),
        ([1, 2], [3, 3, 3], 0.05, "successes has shape \\(2,\\), trials \\(3,\\)"),
    ],
)
def test_clopper_pearson_refuses(successes, trials, alpha, words):
    with pytest.raises(InvalidInput, match=words):
        clopper_pearson(successes, trials, alpha)


def worst_interval(correct, counts, alpha=0.05, **how):
    return tuple(map(float, worst_intervals(correct, counts, alpha, **how)))


def test_worst_intervals_correct_the_upper_bounds_alone():
    # The class with the fewest images has the lowest lower bound, another class the lowest upper bound.
    lo, _ = clopper_pearson([1, 40], [4, 100], 0.05)
    corrected, hi = clopper_pearson([1, 40], [4, 100], 0.05 / 2)
    assert lo[0] < lo[1]
    assert hi[1] < hi[0]
    assert worst_interval([1, 40], [4, 100]) == (float(lo[0]), float(hi[1]))
    assert worst_interval([1, 40], [4, 100], corrected_below=True) == (float(corrected[0]), float(hi[1]))
    assert worst_intervals([[1, 40], [3, 9]], [4, 100])[0].shape == (2,)


def test_worst_interval_leaves_absent_classes_out_of_the_count_too():
    assert worst_interval([1, 0, 40], [4, 0, 100]) == worst_interval([1, 40], [4, 100])
    with pytest.raises(InvalidInput, match="no class has an image"):
        worst_interval([0, 0], [0, 0])


def test_worst_interval_checks_alpha_before_it_is_divided():
    with pytest.raises(InvalidInput, match="not 2"):
        worst_interval([1, 2], [4, 4], 2)


def test_worst_interval_of_one_class_is_clopper_pearson():
    lo, hi = clopper_pearson(7, 20)
    assert worst_interval([7], [20]) == (float(lo), float(hi))


@pytest.mark.parametrize("n", [1000, 100])
def test_worst_interval_covers_ten_equal_classes_at_least_95_percent(n):
    # Ten equal classes: the lower bound is hardly ever too high, the upper one in at most 2.5 % of test sets.
    assert 0.970 <= coverage(np.full(10, 0.45), n) <= 0.990


@pytest.mark.parametrize("n", [1000, 100])
@pytest.mark.parametrize(
    "truth",
    [np.linspace(0.2, 0.7, 10), np.linspace(0.4, 0.5, 10), np.r_[0.2, np.full(9, 0.6)], np.linspace(0.05, 0.45, 100)],
    ids=["spread", "close", "one-betrayed", "hundred"],
)
def test_worst_interval_covers_spread_classes(truth, n):
    assert coverage(truth, n) >= 0.95


def test_resampling_the_minimum_would_not_cover():
    # Why the bounds exist: the percentile bootstrap of the minimum almost never holds the truth of equal classes.
    rng = np.random.default_rng(3)
    share = rng.binomial(100, 0.45, size=(300, 1, 10)) / 100
    minima = rng.binomial(100, np.broadcast_to(share, (300, 200, 10))).min(axis=2) / 100
    lo, hi = np.quantile(minima, [0.025, 0.975], axis=1)
    assert np.mean((lo <= 0.45) & (hi >= 0.45)) < 0.05


def coverage(truth: np.ndarray, n: int, test_sets: int = 2000) -> float:
    correct = np.random.default_rng(1).binomial(n, truth, size=(test_sets, len(truth)))
    low, high = worst_intervals(correct, np.full(len(truth), n))
    return float(np.mean((low <= truth.min()) & (truth.min() <= high)))
