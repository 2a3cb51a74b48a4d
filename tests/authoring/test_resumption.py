from __future__ import annotations

import random
from collections import deque
from threading import Lock
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.authoring.resumption import differing, restore, traces
from fairbench.method.composition import resolve_method


def _trace(value):
    rehearsal = Rehearsal(resolve_method("sat"))
    rehearsal.method.thing = value
    return traces(rehearsal)["SAT.thing"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1.0, 2.0),
        ("a", "b"),
        (None, 0),
        ([1, [2.0]], [1, [3.0]]),
        ({"a": torch.zeros(2)}, {"a": torch.ones(2)}),
        ({1, 2}, {1, 3}),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2, 1), torch.zeros(1, 2)),
        (np.zeros(2), np.ones(2)),
        (nn.Linear(1, 1), nn.Linear(1, 1)),
        (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
        (slice(1), slice(2)),
        (deque([torch.zeros(1)]), deque([torch.ones(1)])),
        (random.Random(1), random.Random(2)),
        (np.random.default_rng(1), np.random.default_rng(2)),
        (SimpleNamespace(a=1), SimpleNamespace(a=2)),
    ],
)
def test_different_values_leave_different_traces(one, other):
    assert _trace(one) == _trace(one)
    assert _trace(one) != _trace(other)


def test_values_that_cannot_be_taken_apart_are_told_by_their_type():
    assert _trace(Lock()) == _trace(Lock())
    assert _trace(lambda: 1) == _trace(lambda: 1)
    assert _trace(Lock()) != _trace(lambda: 1)


def test_nan_equals_itself_and_cycles_end():
    assert _trace(float("nan")) == _trace(float("nan"))
    loop = [1]
    loop.append(loop)
    assert _trace(loop) == _trace(loop)


def test_what_the_run_owns_is_not_the_method_s():
    rehearsal = Rehearsal(resolve_method("rslad"))
    rehearsal.method.net, rehearsal.method.guide = rehearsal.model, rehearsal.context.teacher
    rehearsal.method.optimizer = rehearsal.context.optimizer
    names = set(traces(rehearsal))
    assert not names & {"RSLAD.net", "RSLAD.guide", "RSLAD.optimizer", "RSLAD.context", "RSLAD.policies"}
    assert "RSLAD.kl_scale" in names


def test_restoring_carries_everything_over():
    saved, resumed = (Rehearsal(resolve_method("absld")) for _ in range(2))
    saved.epoch()
    assert differing(saved.model, resumed.model)
    restore(resumed, saved)
    assert differing(saved.model, resumed.model) == []
    assert traces(saved) == traces(resumed)
    assert resumed.context.epoch == 1
