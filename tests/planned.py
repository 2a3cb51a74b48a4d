"""The suite, and the plug-in, that the tests of planning use."""

from __future__ import annotations

from functools import cache
from typing import Any

from fairbench.data import load_dataset
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import Suite

PLUGIN = """
from typing import ClassVar
from fairbench import ClassPolicy, Method, hyper, register_method, register_policy

@register_method("tuned", summary="needs more than the suite gives")
class Tuned(Method):
    own_recipe: ClassVar = {"epochs": 0.25, "lr": 0.01}
    needs: ClassVar = ("warm_start", "natural_teacher", "method_split")
    reads: ClassVar = ("weight",)
    rate: float = hyper(0.5, source="own")

@register_method("greedy", summary="asks for a setting that no recipe has")
class Greedy(Method):
    own_recipe: ClassVar = {"epoch": 3}

@register_policy("weigher", summary="steers by weights")
class Weigher(ClassPolicy):
    own_recipe: ClassVar = {"batch_size": 7}
    supplies: ClassVar = ("weight",)
    rate: float = hyper(1.0, source="own")
    strength: float = hyper(2.0, source="own")

register_method("weighed", base="tuned", policies=["weigher"], options={"strength": 3.0, "tuned.rate": 0.75})
register_method("misspelt", base="tuned", policies=["weigher"], options={"wiegher.strength": 3.0})
register_method("tower", base="weighed")
"""

read_once = cache(load_dataset)


def suite(**settings: Any) -> Suite:
    """A suite on digits with a TRADES teacher and four methods; `settings` replace its sections."""
    tree = {
        "name": "mine",
        "data": {"name": "digits"},
        "model": "small-cnn:width=4",
        "teacher": {"method": "trades", "model": "small-cnn:width=8", "recipe": {"epochs": 5}},
        "methods": ["sat", "trades", "rslad", "absld"],
        "recipe": {"epochs": 20},
    }
    return Suite.model_validate({**tree, **settings})


def students(runs: list[RunSpec]) -> dict[str, RunSpec]:
    """The runs of students by label."""
    return {spec.label: spec for spec in runs if spec.role == "student"}
