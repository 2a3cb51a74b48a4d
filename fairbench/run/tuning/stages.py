"""The stages of a tuning: prerequisites to tune, models to train and freeze, methods to tune."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fairbench.data import load_dataset
from fairbench.errors import InvalidInput
from fairbench.run.plan import plan
from fairbench.run.tuning.method_search import Search
from fairbench.suites.chosen import Tuned, find_chosen
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import PREREQUISITES, Suite, Tuning, load_suite

__all__ = ["Stages", "open_stages"]


@dataclass(frozen=True)
class Stages:
    """The searches of a suite below `root`, in the order in which they are made.

    Each method reads the settings that have been chosen when it is called. `name` is the name or path of the suite.
    """

    name: str
    suite: Suite
    root: Path
    num_classes: int
    planned: Callable[..., list[RunSpec]]

    def prerequisites(self) -> list[Search]:
        """Searches of the teachers and the warm start that have no settings of this budget."""
        bare, found = _models(self.planned()), _models(self.planned(tuned=self._chosen()))
        searches = {need: self._search(base) for need, base in bare.items()}
        return [
            search
            for need, search in searches.items()
            if (found[need].tuning, found[need].budget) != ("tuned", search.budget)
        ]

    def frozen(self) -> list[RunSpec]:
        """Runs that train the teachers and the warm start with the settings chosen for them."""
        runs = _models(self._with_frozen()).values()
        return [spec.model_copy(update={"until": "trained"}) for spec in runs]

    def students(self) -> list[Search]:
        """Searches of the methods, whose trials are built on the frozen models."""
        return [self._search(spec) for spec in self._with_frozen() if spec.role == "student"]

    def _chosen(self) -> Tuned:
        return find_chosen(self.name, self.suite, self.root)

    def _with_frozen(self) -> list[RunSpec]:
        return self.planned(tuned=self._chosen().prerequisites_only())

    def _search(self, base: RunSpec) -> Search:
        return Search(base, self.suite, self.num_classes)


def open_stages(
    name: str,
    *,
    methods: Sequence[str] | None = None,
    trials: int | None = None,
    seeds: Sequence[int] | None = None,
    root: Path = Path("fairbench-out"),
    plugins: Sequence[str] = (),
    command: str = "",
) -> Stages:
    """Open a suite for tuning; `trials` and `seeds` are the suite's unless given.

    Raises InvalidInput for a suite that is tuned on another one, for a method that inherits its settings, and for trial
    seeds that the suite evaluates.
    """
    suite = _tunable(name, trials, seeds)
    planned = partial(plan, suite, methods=_own(suite, methods), seeds=[0], plugins=plugins, command=command)
    return Stages(name, suite, root, load_dataset(suite.data.name).num_classes, planned)


def _tunable(name: str, trials: int | None, seeds: Sequence[int] | None) -> Suite:
    suite = load_suite(name)
    if suite.tuned_on is not None:
        raise InvalidInput(f"suite {suite.name} runs with the settings tuned on {suite.tuned_on}: tune that one")
    tuning = suite.tuning or Tuning()
    seeds = tuple(seeds or tuning.seeds)
    models = [getattr(suite, need) for need in PREREQUISITES]
    evaluated = {*suite.seeds, *(model.seed for model in models if model is not None)}
    shared = sorted(evaluated.intersection(seeds))
    if shared:
        raise InvalidInput(f"seed {shared[0]} is one that suite {suite.name} evaluates: trials have seeds of their own")
    return suite.override({"tuning": {**tuning.model_dump(), "trials": trials or tuning.trials, "seeds": seeds}})


def _own(suite: Suite, methods: Sequence[str] | None) -> list[str]:
    """The methods to tune: those named, or the suite's own; raises InvalidInput for one that inherits its settings."""
    if methods is None:
        return [name for name in suite.methods if name not in suite.inherits]
    for name in methods:
        if name in suite.inherits:
            raise InvalidInput(f"{name} has no trials of its own: it inherits the settings of {suite.inherits[name]}")
    return list(methods)


def _models(specs: Sequence[RunSpec]) -> dict[str, RunSpec]:
    """The teachers and the warm start of a plan that are trained, by need."""
    return {spec.role.replace("-", "_"): spec for spec in specs if spec.role != "student" and spec.checkpoint is None}
