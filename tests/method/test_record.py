"""Class-wise statistics of an epoch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_method import CPU

from fairbench.errors import InvalidInput
from fairbench.method.record import ClassRecord


def test_class_means_are_by_true_counts():
    record = ClassRecord(3, CPU)
    right = torch.tensor([True, False, True])
    record.add(torch.tensor([0, 0, 2]), {"loss": torch.tensor([1.0, 2.0, 4.0]), "right": right})
    record.add(torch.tensor([0, 2]), {"loss": torch.tensor([6.0, 0.0])})
    torch.testing.assert_close(record.mean("loss"), torch.tensor([3.0, 0.0, 2.0]))
    torch.testing.assert_close(record.mean("right"), torch.tensor([0.5, 0.0, 1.0]))
    assert record.counts["loss"].tolist() == [3, 0, 2]


def test_statistics_may_be_rows():
    record = ClassRecord(2, CPU)
    record.add(torch.tensor([1, 1]), {"share": torch.tensor([[1.0, 0.0, 3.0], [3.0, 0.0, 1.0]])})
    torch.testing.assert_close(record.mean("share"), torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 2.0]]))


def test_the_record_keeps_no_graph():
    record, values = ClassRecord(2, CPU), torch.ones(2, requires_grad=True)
    record.add(torch.tensor([0, 1]), {"loss": values * 2})
    assert not record.sums["loss"].requires_grad


def test_a_statistic_that_nobody_kept_is_named():
    record = ClassRecord(2, CPU)
    with pytest.raises(InvalidInput, match=r"^the class record has no 'ce'; it has: nothing$"):
        record.mean("ce")
    record.add(torch.tensor([0]), {"b": torch.ones(1), "a": torch.ones(1)})
    with pytest.raises(InvalidInput, match=r"it has: a, b$"):
        record.mean("ce")


samples = st.tuples(st.integers(0, 3), st.floats(-100, 100, width=32))


@given(st.lists(samples, min_size=1, max_size=40), st.integers(1, 9))
def test_means_do_not_depend_on_the_batches(samples, size):
    y, values = (torch.tensor(column) for column in zip(*samples, strict=True))
    whole, parts = ClassRecord(4, CPU), ClassRecord(4, CPU)
    whole.add(y, {"v": values})
    for start in range(0, len(y), size):
        parts.add(y[start : start + size], {"v": values[start : start + size]})
    torch.testing.assert_close(parts.mean("v"), whole.mean("v"), rtol=1e-4, atol=1e-4)
    for label in range(4):
        mine = [value for c, value in samples if c == label]
        assert whole.mean("v")[label].item() == pytest.approx(sum(mine) / max(len(mine), 1), rel=1e-4, abs=1e-4)
