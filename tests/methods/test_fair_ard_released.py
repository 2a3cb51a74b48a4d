from __future__ import annotations

import pytest

from fairbench.run.plan import plan
from fairbench.suites.suite import load_suite
from fairbench.train.loop import learning_rate


def recipe(name: str, **overrides: object):
    return plan(load_suite("digits"), methods=[name], seeds=[0], overrides=overrides)[-1].recipe


@pytest.mark.parametrize("base", ["ard", "iad", "rslad", "mtard"])
def test_nesterov_is_of_the_scripts_alone(base):
    assert (recipe(f"fair_{base}").nesterov, recipe(f"fair_{base}_released").nesterov) == (False, True)


@pytest.mark.parametrize("base", ["ard", "iad"])
def test_the_scripts_second_drop_of_the_learning_rate_changes_nothing(base):
    schedule = {"recipe.schedule": "multistep", "recipe.lr": 0.1}
    meant, released = recipe(f"fair_{base}", **schedule), recipe(f"fair_{base}_released", **schedule)
    assert [learning_rate(meant, share) for share in (0.4, 0.6, 0.8)] == pytest.approx([0.1, 0.01, 0.001])
    assert [learning_rate(released, share) for share in (0.4, 0.6, 0.8)] == pytest.approx([0.1, 0.01, 0.01])
