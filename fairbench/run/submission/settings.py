"""Comparison of a run's settings with those of the suite that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fairbench import registry
from fairbench.data import Dataset
from fairbench.errors import FairbenchError
from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.lookup import find_boards
from fairbench.leaderboard.rows import KINDS
from fairbench.method.composition import build_method
from fairbench.plugins.calls import code_of_attack, names_code
from fairbench.run.sources import source_of_attack, source_of_training
from fairbench.run.zoo import is_listed, published_sections
from fairbench.suites.sections import Recipe
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import TUNABLE, Suite

__all__ = ["differing_settings"]


def differing_settings(spec: RunSpec, record: Mapping[str, Any], suite: Suite, dataset: Dataset) -> Iterator[str]:
    """Yield how a run's settings differ from those of the suite that it names, a sentence for each difference."""
    if spec.custom or spec.quick or spec.trial is not None:
        yield "it ran with --set or --quick, or as a trial of tuning; such a run is never ranked"
        return
    if _unregistered(spec):
        yield f"the method {spec.method.name} is not registered: add methods/{spec.method.name}.py"
    if spec.data_hash != dataset.hash:
        yield f"its dataset is not {spec.data.name}"
    yield from _other_protocols(spec, record, suite, dataset.hash)
    yield from _other_code(spec, record)
    if str(suite.version) in record["protocols"]:
        yield from _current(spec, record, suite, dataset)


def _other_protocols(spec: RunSpec, record: Mapping[str, Any], suite: Suite, data_hash: str) -> Iterator[str]:
    """Describe which protocols of a run are not those of the suite, whose attacks are what the hash stands for."""
    for version, protocol in record["protocols"].items():
        if protocol["custom"]:  # beside the suite's own; its rows are on an unranked board of their own
            continue
        known = _protocol(suite, version, data_hash)
        if known is None or protocol["hash"] != known.pop("hash"):
            yield f"its protocol {protocol['hash']} is not that of {suite.name} version {version}"
            continue
        if spec.checkpoint is not None:  # given, not trained: it has no last epoch
            known["last"] = []
        for part, expected in known.items():
            own = protocol.get(part)
            if own != expected and not (isinstance(own, list) and sorted(own) == sorted(expected)):
                yield f"the {part} of its protocol {protocol['hash']} is {own}, not {expected}"


def _other_code(spec: RunSpec, record: Mapping[str, Any]) -> Iterator[str]:
    """Describe which plug-in code of a run is not that of this checkout; names of code to import are left alone."""
    if spec.published is not None:
        expected = None
    elif names_code(spec.model) or code_of_attack(spec.selection.attack):
        expected = spec.source_hash
    else:
        expected = source_of_training(spec.model, spec.selection, spec.threat)
    if spec.source_hash != expected:
        yield f"its network {spec.model} or its selection attack {spec.selection.attack} is of other code than here"
    for key, evaluation in record["evaluations"].items():
        text = key.partition("/")[2]
        if not code_of_attack(text) and evaluation.get("source_hash") != source_of_attack(text, spec.threat):
            yield f"{key} was made by other code than here"


def _unregistered(spec: RunSpec) -> bool:
    """Whether a student's method is not registered here."""
    trained = spec.role == "student" and spec.method.base != "checkpoint"
    return trained and spec.method.name not in registry.methods.names()


def _current(spec: RunSpec, record: Mapping[str, Any], suite: Suite, dataset: Dataset) -> Iterator[str]:
    """Describe how a run on the board of the suite's current version differs from the suite.

    A run of an earlier version may be evaluated again for a later one. Its `evaluation` and `budget` are then those of
    the earlier version; the protocol's hash and budget in its record are those of the later one.
    """
    again = spec.version != suite.version
    names = ("data", "threat", "selection") if again else ("data", "threat", "selection", "evaluation")
    expected = {name: getattr(suite, name) for name in names}
    expected |= {} if spec.published is None else published_sections(suite)
    for name, section in expected.items():
        if getattr(spec, name) != section:
            yield f"its {name} is not that of {suite.name} version {suite.version}"
    if spec.published is not None:
        if not is_listed(spec, suite):
            yield f"{spec.method.name}, its architecture and its weights are not listed by {suite.name}"
    elif spec.role == "student" and spec.model != suite.model:
        yield f"its model {spec.model} is not that of the suite, {suite.model}"
    if spec.role == "student" and suite.tuning is not None:
        budgets = {suite.budget(dataset.hash, trials) for trials in (None, suite.tuning.trials)}
        stated = {record["protocols"][str(suite.version)].get("budget"), *(() if again else (spec.budget,))}
        if not stated <= budgets or not _same_budget(spec.recipe, suite.recipe, spec):
            yield "its training budget is not the suite's: give the method the suite's trials with `fairbench tune`"


def _same_budget(recipe: Recipe, expected: Recipe, spec: RunSpec) -> bool:
    """Whether two recipes agree in all but what tuning may set and what a method declares for itself."""
    method = build_method(spec.method)
    own = {name for part in (method, *method.policies) for name in part.own_recipe}
    free = {*TUNABLE, *own}
    return recipe.model_dump(exclude=free) == expected.model_dump(exclude=free)


def _protocol(suite: Suite, version: str, data_hash: str) -> dict[str, Any] | None:
    """What the protocol of a version must be in a record: the suite's, or the committed board's; None if unknown."""
    if version == str(suite.version):
        attacks = {kind: list(getattr(suite.evaluation, kind)) for kind in KINDS}
        return {"hash": suite.protocol(data_hash), **attacks, "metrics": suite.evaluation.metrics, "quick": False}
    for root in (Path(), Path(__file__).resolve().parents[3]):
        try:
            boards = {path.stem: path for path in find_boards([suite.name], root)}
        except FairbenchError:
            continue
        if f"v{version}" in boards:
            board = load_leaderboard(boards[f"v{version}"])
            asked = board[board["attack"] != UNION].drop_duplicates(["checkpoint", "attack"])
            attacks = {kind: list(asked.loc[asked["checkpoint"] == kind, "attack"]) for kind in KINDS}
            return {"hash": str(board["protocol"].iloc[0]), **attacks}
    return None
