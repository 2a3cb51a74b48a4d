"""Every built-in suite that trains can be planned on data of its shape: no name in it is wrong, no model is missing."""

from __future__ import annotations

import numpy as np
import pytest

from fairbench.data import Dataset, Split
from fairbench.method.composition import build_method
from fairbench.run import plan as planning
from fairbench.suites.suite import load_suite, suite_paths

SHAPES = {"digits": (8, 8, 1), "tiny-imagenet": (64, 64, 3)}
CLASSES = {"cifar100": 100, "tiny-imagenet": 200}
TRAINING = [name for name in suite_paths() if not load_suite(name).checkpoints]


def stand_in(name: str, **_: object) -> Dataset:
    """One black image of every class in each split, in the shape of the named dataset."""
    classes = CLASSES.get(name, 10)
    images = np.zeros((classes, *SHAPES.get(name, (32, 32, 3))), np.uint8)
    split = Split(images, np.arange(classes))
    return Dataset(name, split, split, tuple(map(str, range(classes))))


@pytest.mark.parametrize("name", TRAINING)
def test_a_suite_can_be_planned_whole_and_quick(name, monkeypatch):
    monkeypatch.setattr(planning, "load_dataset", stand_in)
    for suite in (load_suite(name), load_suite(name).as_quick()):
        runs = planning.plan(suite)
        students = [spec for spec in runs if spec.role == "student"]
        assert {spec.method.name for spec in students} == set(suite.methods)
        assert len(students) == len(suite.methods) * len(suite.seeds)
        for spec in students:
            needed = set(build_method(spec.method).required) - {"method_split"}
            assert all(getattr(spec, need) is not None for need in needed), spec.method.name


def test_the_micro_suites_differ_in_their_data_and_methods_alone():
    ten, hundred = load_suite("cifar10-micro"), load_suite("cifar100-micro")
    for setting in ("model", "teacher", "recipe", "threat", "selection", "tuning", "quick"):
        assert getattr(ten, setting) == getattr(hundred, setting)
    for suite, classes in ((ten, 10), (hundred, 100)):
        data = suite.data
        assert classes * (data.train_per_class - data.validation_per_class - data.method_per_class) == 10_000
        assert data.hold_out_alike
        (subset,) = [text for text in suite.evaluation.best if text.startswith("autoattack")]
        assert classes * int(subset.partition("per_class=")[2]) == 200
    assert ten.version == 3  # the committed boards of versions 1 and 2 have other protocols
