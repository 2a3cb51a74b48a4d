"""The time that runs will take, from trials and evaluations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu.reserve import START, Costs, fitting

TRIALS = {"sat": [10.0, 12.0, 50.0], "absld": [20.0]}


def test_a_run_takes_its_method_s_median_trial_and_the_median_evaluation():
    costs = Costs(2, TRIALS, [5.0, 6.0, 100.0])
    assert costs.run("sat") == 12.0 + 6.0
    assert costs.run("absld") == 20.0 + 6.0
    assert costs.run("dafa") == 16.0 + 6.0  # the median of all four trials


def test_an_unmeasured_evaluation_counts_as_long_as_the_training():
    assert Costs(2, TRIALS).run("absld") == 40.0
    assert Costs(2).run("absld") == 0.0


def test_runs_side_by_side_take_their_sum_divided_by_the_jobs_or_the_longest():
    costs = Costs(4, TRIALS)
    assert costs.span([], 3) == 0.0
    assert costs.span(["sat"], 1) == START + 24.0
    assert costs.span(["sat", "absld"], 1) == START + 40.0
    assert costs.span(["sat", "absld"], 4) == START + (4 * 24.0 + 4 * 40.0) / 4


def test_the_first_methods_that_fit_are_run_and_one_in_any_case():
    costs = Costs(1, TRIALS)
    assert fitting(["sat", "absld", "dafa"], 1, costs, START + 64.0) == ["sat", "absld"]
    assert fitting(["sat", "absld"], 1, costs, START + 63.0) == ["sat"]
    assert fitting(["absld", "sat"], 1, costs, 1.0) == ["absld"]


@given(
    seconds=st.lists(st.floats(0.1, 1e4), min_size=1, max_size=6), jobs=st.integers(1, 8), left=st.floats(-100.0, 1e5)
)
def test_more_time_never_runs_fewer_methods(seconds, jobs, left):
    names = [f"m{number}" for number in range(len(seconds))]
    costs = Costs(jobs, {name: [value] for name, value in zip(names, seconds, strict=True)})
    found = fitting(names, 1, costs, left)
    assert found == names[: len(found)]
    assert len(fitting(names, 1, costs, left + 10.0)) >= len(found)
    if len(found) > 1:
        assert costs.span(found, 1) == pytest.approx(min(left, costs.span(found, 1)))
