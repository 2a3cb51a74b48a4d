"""How many classes share the lowest accuracy of a run, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fairbench.leaderboard.classes import named_worst, shared_worst

NAN = float("nan")


@pytest.mark.parametrize(
    ("accuracies", "named", "shared"),
    [
        ([[0.5, 0.2, 0.9]], 1, 0),
        ([[0.2, 0.2, 0.9]], 1, 1),
        ([[0.0, 0.0, 0.0]], 1, 2),
        ([[0.1, 0.2, 0.9], [0.3, 0.2, 0.9]], 2, 0),
        ([[0.1, 0.1, 0.9], [0.2, 0.9, 0.2]], 1, 2),  # a class is counted once, in whichever run it is low
        ([[NAN, 0.2, 0.2]], 1, 1),
        ([[NAN, NAN, NAN]], 1, 0),
        ([[NAN, NAN, NAN], [0.1, 0.1, 0.3]], 1, 1),
    ],
)
def test_further_classes_as_low_as_the_worst_of_a_run(accuracies, named, shared):
    assert shared_worst(np.array(accuracies), named) == shared


def test_the_worst_classes_of_runs_are_named_once():
    runs = pd.DataFrame({"worst_class": ["cat", "dog", "cat"], "class_0": [0.1, 0.3, 0.1], "class_1": [0.2, 0.1, 0.1]})
    assert named_worst(runs) == "cat, dog"
    assert named_worst(runs[:1].assign(class_1=0.1)) == "cat +1"
    assert named_worst(runs.drop(columns=["class_0", "class_1"])) == "cat, dog"
