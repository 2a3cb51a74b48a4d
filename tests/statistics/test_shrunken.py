from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, betabinom, binom

from fairbench.errors import InvalidInput
from fairbench.statistics.intervals import worst_intervals
from fairbench.statistics.moderated import Spread
from fairbench.statistics.shrunken import APART, STRENGTHS, method_worst, true_worst


def test_the_posterior_mean_is_that_of_draws_from_the_model():
    """Every strength of the grid in turn, each class from the beta or apart, weighed by its chance."""
    right, images = np.array([9, 30, 24]), np.array([50, 60, 50])
    centre = (right.sum() + 0.5) / (images.sum() + 1)
    rng, total, mean = np.random.default_rng(0), 0.0, 0.0
    for strength in STRENGTHS:
        a, b = strength * centre, strength * (1 - centre)
        together = (1 - APART) * betabinom.pmf(right, images, a, b)
        alone = APART * betabinom.pmf(right, images, 1, 1)
        size = (20_000, 3)
        near = beta.rvs(right + a, images - right + b, size=size, random_state=rng)
        far = beta.rvs(right + 1, images - right + 1, size=size, random_state=rng)
        apart = rng.random(size) < alone / (alone + together)
        weight = float(np.prod(together + alone))
        total, mean = total + weight, mean + weight * np.where(apart, far, near).min(axis=1).mean()
    assert true_worst([right], images)[0] == pytest.approx(mean / total, abs=0.001)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12))
@settings(deadline=None, max_examples=40)
def test_the_estimate_is_a_share_and_blind_to_order_and_absent_classes(right):
    counts = np.full(len(right), 40)
    found = true_worst([right], counts)[0]
    assert 0 < found < 1
    assert true_worst([right[::-1]], counts)[0] == pytest.approx(found)
    assert true_worst([[*right, 0]], [*counts, 0])[0] == pytest.approx(found)


def test_many_images_leave_the_plain_minimum():
    assert true_worst([[20_000, 50_000, 60_000]], [100_000] * 3)[0] == pytest.approx(0.2, abs=0.001)


@pytest.mark.parametrize(
    ("truth", "n"), [(np.full(10, 0.45), 50), (np.full(10, 0.45), 100), (np.linspace(0.4, 0.5, 10), 50)]
)
def test_the_estimate_errs_less_than_the_plain_minimum_where_classes_are_alike(truth, n):
    drawn = binom.rvs(n, truth, size=(300, 10), random_state=np.random.default_rng(2))
    plain, found = drawn.min(axis=1) / n, true_worst(drawn, np.full(10, n))
    error = np.sqrt(np.mean((found - truth.min()) ** 2))
    assert error < 0.55 * np.sqrt(np.mean((plain - truth.min()) ** 2))
    assert abs(np.mean(found) - truth.min()) < 0.5 * abs(np.mean(plain) - truth.min())


def test_a_method_joins_what_seeds_and_images_add():
    right, counts = np.array([[10, 30], [14, 30], [12, 31]]), np.array([50, 50])
    estimate, low, high = method_worst(right, counts, Spread(0.0016, 40))
    images_low, images_high = (float(end.mean()) for end in worst_intervals(right, counts))
    assert estimate == pytest.approx(float(true_worst(right, counts).mean()))
    # The seeds' variance of 0.0016 is averaged with the board's own 0.0016; 2.021 errors of its root over three.
    reach = 2.021 * (0.0016 / 3) ** 0.5
    assert estimate - low == pytest.approx(np.hypot(estimate - images_low, reach), abs=1e-4)
    assert high - estimate == pytest.approx(np.hypot(images_high - estimate, reach), abs=1e-4)
    single = method_worst(right[:1], counts, Spread(0.0016, 40))
    assert single[1:] == pytest.approx([float(end[0]) for end in worst_intervals(right[:1], counts)])


def test_the_ends_stay_shares():
    found = method_worst(np.array([[0, 50], [1, 50], [0, 49]]), np.array([50, 50]), Spread(0.01, 10))
    assert 0 == found[1] < found[0] < found[2] < 1


@pytest.mark.parametrize(("right", "counts"), [([[0, 0]], [0, 0]), ([[1, 2]], [3]), ([1, 2], [3, 3])])
def test_rows_of_classes_with_images_are_needed(right, counts):
    with pytest.raises(InvalidInput, match="right images must be rows"):
        true_worst(right, counts)
