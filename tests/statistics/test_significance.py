from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, multinomial, ttest_rel

from fairbench.errors import InvalidInput
from fairbench.statistics.significance import (
    _mcnemar_power,
    gatekeep,
    holm,
    mcnemar,
    minimum_detectable_difference,
    paired_interval,
    paired_seed_test,
    seed_detectable_difference,
    two_sample_detectable_difference,
)


def test_mcnemar_by_hand():
    # Of three changed images all are lost: 1/8 one-sided, twice that two-sided.
    assert mcnemar(3, 0, alternative="greater") == pytest.approx(1 / 8)
    assert mcnemar(3, 0, alternative="less") == 1.0
    assert mcnemar(3, 0) == mcnemar(0, 3) == pytest.approx(1 / 4)
    assert mcnemar(2, 1, alternative="greater") == pytest.approx(4 / 8)
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 0) == mcnemar(0, 0, alternative="greater") == 1.0


def test_mid_p_counts_the_outcome_seen_half():
    # Of three changed images all are lost: half of 1/8 one-sided.
    assert mcnemar(3, 0, alternative="greater", mid_p=True) == pytest.approx(1 / 16)
    assert mcnemar(3, 0, alternative="less", mid_p=True) == pytest.approx(15 / 16)
    assert mcnemar(3, 0, mid_p=True) == mcnemar(0, 3, mid_p=True) == pytest.approx(1 / 8)
    assert mcnemar(2, 1, alternative="greater", mid_p=True) == pytest.approx(1 / 8 + 3 / 16)
    assert mcnemar(0, 0, mid_p=True) == mcnemar(5, 5, mid_p=True) == 1.0


@given(st.integers(1, 60), st.floats(0.005, 0.2))
@settings(deadline=None, max_examples=40)
def test_the_power_by_mid_p_is_that_of_the_test(changed, level):
    # The smallest count lost whose mid-p is at most the level, found by trying all.
    rejected = [k for k in range(changed + 1) if mcnemar(k, changed - k, alternative="greater", mid_p=True) <= level]
    drop = 0.3
    chance = binom.pmf(changed, changed, 1.0) * sum(binom.pmf(k, changed, (1 + drop) / 2) for k in rejected)
    assert _mcnemar_power(changed, 1.0, drop, level, True) == pytest.approx(chance)


def test_a_gate_lets_the_next_be_tested_and_a_family_after_all():
    ordered, family = gatekeep([0.01, 0.03], [0.02, 0.001])
    assert ordered.tolist() == [0.01, 0.03]
    assert family.tolist() == [0.03, 0.03]  # Holm gives 0.02 and 0.002, but no class is told before the average is
    shut, behind = gatekeep([0.2, 0.001], [0.001])
    assert (shut.tolist(), behind.tolist()) == ([0.2, 0.2], [0.2])
    alone, plain = gatekeep([], [0.02, 0.001])
    assert (alone.tolist(), plain.tolist()) == ([], holm([0.02, 0.001]).tolist())


@given(st.integers(0, 200), st.integers(0, 200), st.sampled_from(["two-sided", "greater", "less"]))
@settings(deadline=None, max_examples=60)
def test_mcnemar_is_the_binomial_test_of_one_half(lost, won, alternative):
    if lost + won:
        expected = binomtest(lost, lost + won, alternative=alternative).pvalue
        assert mcnemar(lost, won, alternative=alternative) == pytest.approx(expected)


def test_holm_by_hand():
    # 0.01 x 4, 0.02 x 3, then 0.03 x 2 and 0.04 x 1, none below the one before it.
    np.testing.assert_allclose(holm([0.03, 0.01, 0.04, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    assert holm([]).shape == (0,)
    assert holm([0.2]) == [0.2]


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_the_plain_p_and_bonferroni(p):
    values, adjusted = np.array(p), holm(p)
    assert np.all(adjusted >= values)
    assert np.all(adjusted <= np.minimum(values * len(p), 1.0))
    assert np.all(np.diff(adjusted[np.argsort(values, kind="stable")]) >= 0)


@pytest.mark.parametrize("p", [[0.1, float("nan")], [-0.1], [1.1], [[0.1]]])
def test_holm_refuses_what_is_no_p_value(p):
    with pytest.raises(InvalidInput, match="p-values"):
        holm(p)


def test_paired_interval_is_tangos():
    # Tango 1998, section 4: 43 images changed one way, none the other, of 44; and Table II's cross-over study.
    low, high = paired_interval(0, 0, 44)
    assert high == -low == pytest.approx(1.959964**2 / (44 + 1.959964**2), abs=1e-6)
    low, high = paired_interval(12, 2, 14)
    assert low < 10 / 14 < high
    assert paired_interval(2, 12, 14) == pytest.approx((-high, -low))
    assert paired_interval(10, 0, 10)[1] == 1.0


def test_paired_interval_covers():
    # Over all outcomes of 20 images, not sampled; the score interval is close to its level, not above it.
    outcomes = [(lost, won) for lost in range(21) for won in range(21 - lost)]
    intervals = np.array([paired_interval(*outcome, 20) for outcome in outcomes])
    counts = np.array([(lost, won, 20 - lost - won) for lost, won in outcomes])
    for lost, won in ((0.2, 0.1), (0.3, 0.05), (0.1, 0.1)):
        covered = (intervals[:, 0] <= lost - won) & (lost - won <= intervals[:, 1])
        assert 0.93 <= multinomial.pmf(counts, 20, [lost, won, 1 - lost - won])[covered].sum() <= 0.99


def test_the_detectable_difference_has_the_power_it_says():
    drop = minimum_detectable_difference(400, 0.1, alpha=0.05, power=0.8)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(400, [(0.1 + drop) / 2, (0.1 - drop) / 2, 0.9], size=1500)
    found = np.mean([mcnemar(lost, won, alternative="greater") <= 0.05 for lost, won, _ in draws])
    assert found == pytest.approx(0.8, abs=0.03)


def test_the_detectable_difference_by_hand_where_nothing_else_changes():
    # Five of five lost are the fewest that 5 % rejects; lost images are binomial with the drop as their share.
    drop = minimum_detectable_difference(1000, 0.0)
    assert binom.sf(4, 1000, drop) == pytest.approx(0.8, abs=1e-3)


def test_the_detectable_difference_grows_with_discordance_family_and_tolerance():
    plain = minimum_detectable_difference(1000, 0.07)
    assert minimum_detectable_difference(1000, 0.14) > plain
    assert minimum_detectable_difference(1000, 0.07, comparisons=10) > plain
    assert minimum_detectable_difference(4000, 0.07) < plain
    assert minimum_detectable_difference(1000, 0.07, max_drop=0.02) > plain + 0.01
    assert minimum_detectable_difference(4, 0.5) == 1.0
    with pytest.raises(InvalidInput, match="no test has 0 images"):
        minimum_detectable_difference(0, 0.1)


def test_the_two_sample_detectable_difference():
    # (1.645 + 0.842) sqrt(0.25 / 1000 + 0.443 * 0.557 / 1000) is 5.55 points, which is again where 0.443 comes from.
    assert two_sample_detectable_difference(1000, 1000, 0.5) == pytest.approx(0.0555, abs=1e-3)
    assert two_sample_detectable_difference(1000, 1000, 0.5, max_drop=0.02) > 0.07
    assert two_sample_detectable_difference(20, 20, 0.1) == 1.0
    assert two_sample_detectable_difference(1000, 1000, 0.01, max_drop=0.02) == 1.0
    with pytest.raises(InvalidInput, match="no share 2"):
        two_sample_detectable_difference(10, 10, 2.0)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=6))
@settings(deadline=None, max_examples=30)
def test_paired_seed_test_is_the_paired_t_test(figures):
    before, after = np.array(figures).T
    if (before - after).std(ddof=1) > 1e-6:
        for alternative in ("two-sided", "greater", "less"):
            expected = ttest_rel(before, after, alternative=alternative).pvalue
            assert paired_seed_test(before, after, alternative=alternative) == pytest.approx(expected)


def test_paired_seed_test_where_every_drop_is_the_same():
    # Sign flips: all three drops positive happens once in eight.
    assert paired_seed_test([0.5, 0.4, 0.3], [0.4, 0.3, 0.2], alternative="greater") == 1 / 8
    assert paired_seed_test([0.5, 0.4, 0.3], [0.4, 0.3, 0.2]) == 1 / 4
    assert paired_seed_test([0.5, 0.4, 0.3], [0.4, 0.3, 0.2], alternative="less") == 1.0
    assert paired_seed_test([0.5, 0.4, 0.3], [0.4, 0.3, 0.2], max_drop=0.1, alternative="greater") == 1.0
    assert paired_seed_test([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]) == 1.0


def test_a_tolerated_drop_is_taken_off():
    before, after = [0.50, 0.51, 0.49], [0.45, 0.47, 0.44]
    shifted = [value + 0.02 for value in after]
    tolerant = paired_seed_test(before, after, max_drop=0.02, alternative="greater")
    assert tolerant == pytest.approx(paired_seed_test(before, shifted, alternative="greater"))


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([0.5, 0.5], [0.4, 0.4], "needs 3 seeds, not 2"),
        ([0.5, 0.5, 0.5], [0.4, 0.4], "one length"),
        ([0.5, 0.5, float("nan")], [0.4, 0.4, 0.4], "finite"),
    ],
)
def test_paired_seed_test_refuses(a, b, words):
    with pytest.raises(InvalidInput, match=words):
        paired_seed_test(a, b)


def test_the_drop_detectable_over_seeds_has_the_power_it_says():
    beyond = seed_detectable_difference(0.01, 5, alpha=0.05, power=0.8)
    drops = np.random.default_rng(0).normal(beyond, 0.01, size=(1200, 5))
    found = np.mean([paired_seed_test(drop, np.zeros(5), alternative="greater") <= 0.05 for drop in drops])
    assert found == pytest.approx(0.8, abs=0.03)
    assert seed_detectable_difference(0.0, 3) == 0.0
    with pytest.raises(InvalidInput, match="needs 3 seeds, not 2"):
        seed_detectable_difference(0.01, 2)
