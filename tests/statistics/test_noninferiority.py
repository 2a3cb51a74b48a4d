from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import barnard_exact, binom, multinomial

from fairbench.errors import InvalidInput
from fairbench.statistics.noninferiority import (
    paired_drop_test,
    paired_score,
    restricted_won,
    two_sample_drop_test,
    two_sample_score,
    worst_drop_test,
)
from fairbench.statistics.significance import mcnemar


def test_with_no_tolerance_the_paired_test_is_mcnemars():
    for lost, won in ((5, 0), (30, 12), (3, 2)):
        assert paired_drop_test(lost, won, 100) == mcnemar(lost, won, alternative="greater")
    assert paired_drop_test(2, 3, 100) == 1.0


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 40), st.floats(0.001, 0.3))
@settings(deadline=None, max_examples=60)
def test_the_likeliest_shares_maximise_the_likelihood(same, lost, won, drop):
    n = same + lost + won
    found = float(restricted_won(lost, won, n, drop))

    def loss(share: float) -> float:
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log([share + drop, share, 1 - 2 * share - drop])
        counts = np.array([lost, won, same])
        return -float(np.sum(counts[counts > 0] * logs[counts > 0]))

    best = minimize_scalar(loss, bounds=(0, (1 - drop) / 2), method="bounded", options={"xatol": 1e-10})
    assert loss(max(found, 1e-12)) <= best.fun + 1e-6


@given(st.integers(5, 60), st.integers(5, 60), st.data())
@settings(deadline=None, max_examples=60)
def test_the_closed_form_of_farrington_and_manning_maximises_the_likelihood(n_before, n_after, data):
    before, after = data.draw(st.integers(0, n_before)), data.draw(st.integers(0, n_after))
    drop = data.draw(st.floats(0.0, 0.3))

    def loss(share: float) -> float:
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log([share + drop, 1 - share - drop, share, 1 - share])
        counts = np.array([before, n_before - before, after, n_after - after])
        return -float(np.sum(counts[counts > 0] * logs[counts > 0]))

    best = minimize_scalar(loss, bounds=(0, 1 - drop), method="bounded", options={"xatol": 1e-11})
    variance = (best.x + drop) * (1 - best.x - drop) / n_before + best.x * (1 - best.x) / n_after
    if variance > 1e-4:
        expected = (before / n_before - after / n_after - drop) / variance**0.5
        assert float(two_sample_score(before, n_before, after, n_after, drop)) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("drop", [0.0, 0.02, 0.1])
def test_scores_grow_with_what_is_lost(drop):
    # What makes a region of outcomes closed upwards, on which the exactness of both tests rests.
    for won in (0, 3, 40):
        assert np.all(np.diff(paired_score(np.arange(101 - won), won, 100, drop)) >= -1e-9)
    for after in (0, 7, 30, 60):
        assert np.all(np.diff(two_sample_score(np.arange(81), 80, after, 60, drop)) >= -1e-9)


@pytest.mark.parametrize(("n", "max_drop"), [(25, 0.05), (40, 0.02)])
def test_the_paired_test_holds_its_level_at_every_share(n, max_drop):
    # Summed over all outcomes, not sampled.
    outcomes = [(lost, won, n - lost - won) for lost in range(n + 1) for won in range(n + 1 - lost)]
    p = np.array([paired_drop_test(lost, won, n, max_drop) for lost, won, _ in outcomes])
    for won in np.linspace(0, (1 - max_drop) / 2, 9):
        for drop in (max_drop, max_drop / 2, 0.0):
            chance = multinomial.pmf(outcomes, n, [won + drop, won, 1 - 2 * won - drop])
            for alpha in (0.05, 0.01):
                assert chance[p <= alpha].sum() <= alpha + 1e-9


@pytest.mark.parametrize("max_drop", [0.0, 0.1])
def test_the_two_sample_test_holds_its_level_at_every_share(max_drop):
    n_before, n_after = 20, 15
    p = np.array(
        [
            [two_sample_drop_test(a, n_before, b, n_after, max_drop) for b in range(n_after + 1)]
            for a in range(n_before + 1)
        ]
    )
    for share in np.linspace(0, 1 - max_drop, 15):
        chance = np.outer(
            binom.pmf(np.arange(n_before + 1), n_before, share + max_drop),
            binom.pmf(np.arange(n_after + 1), n_after, share),
        )
        for alpha in (0.05, 0.01):
            assert chance[p <= alpha].sum() <= alpha + 1e-9


@pytest.mark.parametrize(("before", "after"), [(30, 18), (25, 14), (45, 30)])
def test_without_tolerance_the_two_sample_test_is_barnards(before, after):
    table = [[before, after], [50 - before, 50 - after]]
    expected = min(barnard_exact(table, alternative=side, n=256).pvalue for side in ("less", "greater"))
    assert two_sample_drop_test(before, 50, after, 50) == pytest.approx(expected, rel=0.01)


def test_a_drop_within_tolerance_is_never_rejected():
    assert paired_drop_test(30, 10, 1000, 0.02) == 1.0
    assert two_sample_drop_test(520, 1000, 500, 1000, 0.02) == 1.0
    assert paired_drop_test(0, 0, 5, 0.0) == 1.0


def test_p_falls_as_more_is_lost_and_rises_with_tolerance():
    p = [paired_drop_test(lost, 20, 1000, 0.02) for lost in (45, 55, 65, 75)]
    assert p == sorted(p, reverse=True)
    assert p[0] > 0.05 > p[-1]
    assert paired_drop_test(75, 20, 1000, 0.0) < paired_drop_test(75, 20, 1000, 0.01) < p[-1]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: paired_drop_test(3, 3, 5), "3 lost and 3 won of 5"),
        (lambda: paired_drop_test(-1, 3, 5), "-1 lost"),
        (lambda: paired_drop_test(1, 1, 5, 1.0), r"fraction in \[0, 1\), not 1.0"),
        (lambda: paired_drop_test(1, 1, 5, float("nan")), "nan"),
        (lambda: two_sample_drop_test(6, 5, 1, 5), "6 right of 5"),
        (lambda: two_sample_drop_test(0, 0, 0, 0), "0 right of 0"),
        (lambda: worst_drop_test([0], [0], [0]), "no class has an image"),
    ],
)
def test_impossible_counts_are_refused(call, words):
    with pytest.raises(InvalidInput, match=words):
        call()


def test_the_worst_class_by_hand():
    # 40 -> 25 of 100 with 5 won: 20 lost, 5 won. Another class is far above, so that only the worst one speaks.
    found = worst_drop_test([40, 90], [25, 90], [100, 100], [20, 90])
    assert found == pytest.approx(mcnemar(20, 5, alternative="greater") / 0.8)
    # One class is the only one: nothing is shared.
    assert worst_drop_test([40], [25], [100], [20]) == pytest.approx(mcnemar(20, 5, alternative="greater"))
    assert worst_drop_test([40, 0], [25, 0], [100, 0], [20, 0]) == worst_drop_test([40], [25], [100], [20])


def test_a_class_that_becomes_the_worst_is_found():
    # Class 0 keeps its 40 %; class 1 falls from 90 % to 10 %, which is below all that was there.
    alone = max(two_sample_drop_test(before, 100, 10, 100) for before in (40, 90))
    assert worst_drop_test([40, 90], [40, 10], [100, 100], [40, 10]) == pytest.approx(alone / 0.1)
    # Falling from 90 % to 45 %, it has not become worse than the worst was.
    assert worst_drop_test([40, 90], [40, 45], [100, 100], [40, 45]) == 1.0


def test_without_verdicts_the_worst_class_is_two_samples():
    found = worst_drop_test([400, 900], [300, 900], [1000, 1000])
    assert found == pytest.approx(two_sample_drop_test(400, 1000, 300, 1000) / 0.8)
