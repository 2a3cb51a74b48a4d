from __future__ import annotations

import numpy as np
import pytest

from fairbench.errors import InvalidInput
from fairbench.statistics.intervals import worst_intervals
from fairbench.statistics.noninferiority import two_sample_drop_test
from fairbench.statistics.significance import mcnemar
from fairbench.statistics.worst_difference import worst_difference_interval, worst_difference_test


def test_one_class_is_mcnemar():
    found = worst_difference_test([40], [25], [20], [100])
    assert found == pytest.approx(mcnemar(20, 5, mid_p=True))
    assert found == pytest.approx(worst_difference_test([25], [40], [20], [100]))


def test_two_classes_by_hand():
    # Class 0 of the second falls to 10; both classes of the first lie above it, one by pairs, the other by itself.
    p = max(mcnemar(42, 2, alternative="greater", mid_p=True), two_sample_drop_test(60, 100, 10, 100))
    assert worst_difference_test([50, 60], [10, 60], [8, 60], [100, 100]) == pytest.approx(2 * 2 * p)


def test_another_class_may_be_the_worst_afterwards():
    # The worst class recovers, another takes its place at the same height: no difference.
    assert worst_difference_test([20, 80], [80, 20], [15, 20], [100, 100]) == 1.0
    assert worst_difference_test([20, 0, 80], [80, 0, 20], [15, 0, 20], [100, 0, 100]) == 1.0


def test_false_alarms_stay_below_alpha_where_worst_classes_swap():
    rng, counts = np.random.default_rng(0), np.full(4, 100)
    one, other = np.array([0.3, 0.35, 0.5, 0.6]), np.array([0.5, 0.3, 0.3, 0.4])
    alarms = 0
    for _ in range(120):
        common = rng.random((4, 100))
        first, second = common < one[:, None], np.where(rng.random((4, 100)) < 0.5, common, rng.random((4, 100)))
        right = second < other[:, None]
        alarms += worst_difference_test(first.sum(1), right.sum(1), (first & right).sum(1), counts) <= 0.05
    assert alarms / 120 <= 0.05


def test_the_interval_is_the_distance_of_two():
    first, second, counts = [50, 60], [10, 60], [100, 100]
    (low, high), (other_low, other_high) = (worst_intervals(side, counts, 0.025) for side in (first, second))
    assert worst_difference_interval(first, second, counts) == (low - other_high, high - other_low)


def test_a_class_with_images_is_needed():
    with pytest.raises(InvalidInput, match="no class has an image"):
        worst_difference_test([0], [0], [0], [0])
