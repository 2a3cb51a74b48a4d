from __future__ import annotations

import math

import numpy as np
import pytest

from fairbench.statistics import figures

ROWS = np.array([[0.75, 0.25, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]])


def test_rows_by_hand():
    assert figures.gap(ROWS).tolist() == [0.5, 0.0, 0.0]
    assert figures.worst10(ROWS).tolist() == [0.25, 0.5, 0.0]
    nsd = figures.normalized_deviation(ROWS)
    assert nsd[:2].tolist() == [pytest.approx(math.sqrt(2 * 0.0625 / 4) / 0.5), 0.0]
    assert math.isnan(nsd[2])
    # Of sixteen ordered pairs two differ by 0.5 and eight by 0.25: half their mean, 3 / 16, over the mean of 0.5.
    assert figures.gini(ROWS)[:2].tolist() == [pytest.approx(3 / 16 / 2 / 0.5), 0.0]
    assert math.isnan(figures.gini(ROWS)[2])


def test_nsd_corrected_takes_the_sampling_variance_out_of_every_row():
    counts = np.array([5, 5, 5, 5])
    sampling = 3 / 4 * np.mean(ROWS[0] * (1 - ROWS[0]) / 4)
    found = figures.nsd_corrected(ROWS, counts)
    assert found[0] == pytest.approx(math.sqrt(max(0.0, 2 * 0.0625 / 4 - sampling)) / 0.5)
    assert found[1] == 0.0
    assert math.isnan(found[2])
    assert np.isnan(figures.nsd_corrected(ROWS, np.array([5, 1, 5, 5]))).all()


@pytest.mark.parametrize("name", ["gap", "gini", "normalized_deviation", "worst10"])
def test_a_row_is_what_it_is_alone(name):
    rows = np.random.default_rng(0).random((7, 13))
    figure = getattr(figures, name)
    assert figure(rows).tolist() == [float(figure(row)) for row in rows]
