"""The runs that a suite consists of, teachers before their students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic_core import to_jsonable_python

from fairbench import registry
from fairbench.attacks import resolve
from fairbench.attacks.attack import check_fits
from fairbench.copies import default_engine
from fairbench.data import Dataset, balanced_subset, load_dataset
from fairbench.errors import InvalidInput, UnknownName
from fairbench.method.composition import build_method, method_parts, part_settings, resolve_method
from fairbench.method.method import Method
from fairbench.models import build_model
from fairbench.run.prerequisites import evaluation_of, prerequisites
from fairbench.run.settings import choice_of, chosen_options
from fairbench.run.sources import source_of_training
from fairbench.run.zoo import find_models, models_folder, published_runs
from fairbench.suites.chosen import Tuned
from fairbench.suites.sections import Environment, Recipe
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import PREREQUISITES, SECTIONS, Suite
from fairbench.suites.values import digest

__all__ = ["plan"]


def plan(
    suite: Suite,
    *,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    environment: Environment | None = None,
    plugins: Sequence[str] = (),
    command: str = "",
    tuned: Tuned | None = None,
    models: Path | None = None,
) -> list[RunSpec]:
    """Return the runs of a suite, every teacher before its students.

    `overrides` maps `section.field` or `method.field` (or `base.field`, `policy.field`) to values; runs with any are
    marked custom and never ranked. The method name `all` stands for every registered method but ablations. `tuned`
    holds the settings that tuning chose; overrides win over them. A suite of checkpoints has a run for each model that
    is in the folder `models`, or that `methods` names. Raises UnknownName and InvalidInput.
    """
    if models is not None and not suite.checkpoints:
        raise InvalidInput(f"--models {models}: {suite.name} trains its networks and reads no published models")
    changes, own = _sorted_out(overrides or {})
    changed = suite.override(changes)
    differences = _differences(suite, changed) | to_jsonable_python(own)
    suite, custom = changed, changed != suite
    if seeds is not None:
        suite = suite.override({"seeds": seeds})
    for attack in (suite.selection.attack, *suite.evaluation.best, *suite.evaluation.last):
        resolve(attack, suite.threat)  # an unknown attack is an error now, not after the training
    names = [] if suite.checkpoints else _named(suite, methods)
    _check_settings(own, names)
    dataset = load_dataset(suite.data.name, train_per_class=suite.data.train_per_class)
    check_fits(suite.threat, dataset.test.images[0].size)
    balanced_subset(dataset.test, suite.data.test_per_class)  # raises before the training
    _check_models(suite, dataset)
    change = digest([suite.protocol(dataset.hash), differences])
    shared: dict[str, Any] = {
        "suite": suite.name,
        "version": suite.version,
        "data": suite.data,
        "data_hash": dataset.hash,
        "threat": suite.threat,
        "selection": suite.selection,
        "evaluation": suite.evaluation,
        "environment": environment or _environment(),
        "protocol": suite.protocol(dataset.hash),
        "changes": change if custom else None,
        "quick": suite.is_quick,
        "plugins": tuple(plugins),
        "command": command,
    }
    if suite.checkpoints:
        places = find_models(suite, models_folder(models), methods)
        return published_runs(suite, places, dataset, custom, shared)
    tuned = (tuned or Tuned()).without([key.partition(".")[2] for key in changes if _section(key) == "recipe"])
    resolved = [resolve_method(name, own, num_classes=dataset.num_classes) for name in names]
    prepared = prerequisites(suite, resolved, custom, tuned, shared, num_classes=dataset.num_classes)
    runs = [
        spec if isinstance(spec, RunSpec) else evaluation_of(suite, need, spec, dataset, custom, shared)
        for need, spec in prepared.items()
    ]
    for name in names:
        student = _student(suite, name, own, custom, tuned, prepared, dataset)
        common = shared | student | {"changes": change if student["custom"] else None}
        runs += [RunSpec(seed=seed, **common) for seed in dict.fromkeys(suite.seeds)]
    return runs


def _student(
    suite: Suite,
    name: str,
    own: Mapping[str, Any],
    custom: bool,
    tuned: Tuned,
    prepared: Mapping[str, RunSpec | str],
    dataset: Dataset,
) -> dict[str, Any]:
    """The settings of a method's runs beside those that all runs of the plan share.

    `own` holds the overrides of methods' settings, `prepared` the teachers and the warm start of the plan by need.
    """
    resolve_here = partial(resolve_method, num_classes=dataset.num_classes)
    needed = {need: spec for need, spec in prepared.items() if need in build_method(resolve_here(name)).required}
    choice = choice_of(suite, name, tuned, needed, None if custom else dataset.hash)
    spec = resolve_here(name, {**chosen_options(name, choice), **own})
    unchanged = spec == resolve_here(name, chosen_options(name, choice))
    recipe = _own_recipe(build_method(spec), suite.recipe, prepared.get("warm_start"))
    return {
        "method": spec,
        "model": suite.model,
        "source_hash": source_of_training(suite.model, suite.selection, suite.threat),
        "recipe": recipe.override(choice.recipe if choice else {}, f"the tuned {name}"),
        "custom": custom or not unchanged,
        **needed,
        **tuned.marks(suite, dataset.hash, choice, inherited=name in suite.inherits),
    }


def _sorted_out(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split overrides into settings of the suite's sections and settings of methods."""
    changes = {key: value for key, value in overrides.items() if _section(key) in SECTIONS or "." not in key}
    return changes, {key: value for key, value in overrides.items() if key not in changes}


def _differences(suite: Suite, changed: Suite) -> dict[str, Any]:
    """The settings of a changed suite that are not those of the suite, in plain values."""
    before, after = suite.model_dump(mode="json"), changed.model_dump(mode="json")
    return {name: value for name, value in after.items() if value != before[name]}


def _check_models(suite: Suite, dataset: Dataset) -> None:
    """Build every architecture of the suite without its weights, so that a wrong name fails before anything runs."""
    asked = [suite.model] if suite.model else []
    asked += [listed.model for listed in suite.checkpoints if listed.model]
    asked += [spec.model for need in PREREQUISITES if (spec := getattr(suite, need)) is not None and spec.model]
    with torch.device("meta"):
        for model in dict.fromkeys(asked):
            build_model(model, num_classes=dataset.num_classes, shape=dataset.shape)


def _environment() -> Environment:
    """This machine's environment: CUDA if a device is visible, which CUDA_VISIBLE_DEVICES= prevents."""
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    engine: Literal["torch", "c"] = "c" if default_engine(device) == "c" else "torch"
    return Environment(torch=version("torch"), device=device, engine=engine)


def _named(suite: Suite, methods: Sequence[str] | None) -> list[str]:
    """The methods to run, each once; `all` adds every method but ablations to the suite's own, reconstructions last."""
    names: list[str] = []
    for name in methods or suite.methods:
        if name == "all":
            kinds = {other: registry.methods.details(other).get("provenance") for other in registry.methods.names()}
            rest = [other for other in kinds if kinds[other] != "ablation"]
            names += [*suite.methods, *sorted(rest, key=lambda other: (kinds[other] == "reconstruction", other))]
        else:
            names.append(name)
    return list(dict.fromkeys(names))


def _own_recipe(method: Method, recipe: Recipe, warm_start: RunSpec | str | None) -> Recipe:
    """The suite's recipe with the settings that the method and its policies replace.

    Their epochs are a share of the warm start's epochs, or of the suite's if the warm start is a checkpoint or absent.
    Fine-tuning takes at least two epochs, so that a drop of the learning rate after the first takes effect.
    """
    own: dict[str, Any] = {}
    for part in (method, *method.policies):
        own |= part.own_recipe
    if "epochs" in own:
        tuned = "warm_start" in method.required
        whole = warm_start.recipe if tuned and isinstance(warm_start, RunSpec) else recipe
        own["epochs"] = max(2 if tuned else 1, round(own["epochs"] * whole.epochs))
    return recipe.override(own, type(method).__name__)


def _section(key: str) -> str:
    return key.partition(".")[0]


def _check_settings(overrides: Mapping[str, Any], methods: Sequence[str]) -> None:
    """Raise UnknownName for a setting that belongs to no section of a suite and to no part of the methods."""
    parts = {method: method_parts(method)[1] for method in methods}
    components = {*parts, *(component for classes in parts.values() for component in classes)}
    for key in overrides:
        if key.rpartition(".")[0] not in components:
            known = [f"{section}.{name}" for section in SECTIONS for name in _fields(section)]
            for method, classes in parts.items():
                known += part_settings(classes) + part_settings(classes, method)
            raise UnknownName("setting", key, dict.fromkeys(known))


def _fields(section: str) -> Sequence[str]:
    return list(Suite.model_fields[section].annotation.model_fields)  # type: ignore[union-attr]
