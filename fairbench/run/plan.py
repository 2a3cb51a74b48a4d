"""Suite -> plan: the runs a benchmark consists of, teachers before their students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from fairbench import registry
from fairbench.attacks import resolve
from fairbench.copies import default_engine
from fairbench.data import Dataset, load_dataset
from fairbench.errors import InvalidInput, Missing, UnknownName
from fairbench.method.composition import build_method, method_parts, part_settings, resolve_method
from fairbench.method.method import Method
from fairbench.models import build_model, load_checkpoint
from fairbench.suites.spec import Environment, MethodSpec, Recipe, RunSpec
from fairbench.suites.suite import PREREQUISITES, SECTIONS, Suite, TeacherSpec

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
) -> list[RunSpec]:
    """Return the runs of a suite in an order in which every teacher stands before its students.

    `overrides` maps `section.field` or `method.field` (or `base.field`, `policy.field`) to values; runs with any are
    marked custom and never ranked. `all` among the methods stands for every registered one but ablations. Raises
    UnknownName and InvalidInput.
    """
    overrides = dict(overrides or {})
    names = _named(suite, methods)
    changes = {key: value for key, value in overrides.items() if _section(key) in SECTIONS or "." not in key}
    tuned = {key: value for key, value in overrides.items() if key not in changes}
    changed = suite.override(changes)
    suite, custom = changed, changed != suite
    for attack in (suite.selection.attack, *suite.evaluation.best, *suite.evaluation.last):
        resolve(attack, suite.threat)  # a mistake shows now, not after the training
    _check_settings(tuned, names)
    dataset = load_dataset(suite.data.name)
    _check_models(suite, dataset)
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
        "quick": suite.is_quick,
        "plugins": tuple(plugins),
        "command": command,
    }
    resolved = [resolve_method(name, tuned) for name in names]
    untuned = [resolve_method(name) for name in names]
    given = _prerequisites(suite, resolved, custom, shared)
    runs = [
        spec if isinstance(spec, RunSpec) else _evaluation_of(suite, need, spec, dataset, custom, shared)
        for need, spec in given.items()
    ]
    for spec, default in zip(resolved, untuned, strict=True):
        method = build_method(spec)
        recipe = _own_recipe(method, suite.recipe)
        for seed in dict.fromkeys(seeds if seeds is not None else suite.seeds):
            runs.append(
                RunSpec(
                    method=spec,
                    model=suite.model,
                    recipe=recipe,
                    seed=seed,
                    custom=custom or spec != default,
                    **{need: spec for need, spec in given.items() if need in method.required},
                    **shared,
                )
            )
    return runs


def _check_models(suite: Suite, dataset: Dataset) -> None:
    """Build every architecture of the suite without its weights: a wrong name shows now, not when the run starts."""
    asked = [suite.model]
    asked += [spec.model for need in PREREQUISITES if (spec := getattr(suite, need)) is not None and spec.model]
    with torch.device("meta"):
        for model in dict.fromkeys(asked):
            build_model(model, num_classes=dataset.num_classes, shape=dataset.shape)


def _environment() -> Environment:
    """This machine's: on CUDA where there is a device, which CUDA_VISIBLE_DEVICES= hides."""
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    engine: Literal["torch", "c"] = "c" if default_engine(device) == "c" else "torch"
    return Environment(torch=version("torch"), device=device, engine=engine)


def _named(suite: Suite, methods: Sequence[str] | None) -> list[str]:
    """The methods to run, each once; `all` is the suite's own and every other but ablations, reconstructions last."""
    names: list[str] = []
    for name in methods or suite.methods:
        if name == "all":
            kinds = {other: registry.methods.details(other).get("provenance") for other in registry.methods.names()}
            rest = [other for other in kinds if kinds[other] != "ablation"]
            names += [*suite.methods, *sorted(rest, key=lambda other: (kinds[other] == "reconstruction", other))]
        else:
            names.append(name)
    return list(dict.fromkeys(names))


def _own_recipe(method: Method, recipe: Recipe) -> Recipe:
    """The suite's recipe with what the method and its policies must have otherwise; epochs scale with the suite's."""
    own: dict[str, Any] = {}
    for part in (method, *method.policies):
        own |= part.own_recipe
    if "epochs" in own:
        own["epochs"] = max(1, round(own["epochs"] * recipe.epochs))
    return recipe.override(own, type(method).__name__)


def _prerequisites(
    suite: Suite, methods: Sequence[MethodSpec], custom: bool, shared: Mapping[str, Any]
) -> dict[str, RunSpec | str]:
    """What the methods need before they can start: teachers and warm starts, each once, by the name of the need."""
    given: dict[str, RunSpec | str] = {}
    for spec in methods:
        for need in sorted(build_method(spec).required):
            if need not in PREREQUISITES or need in given:
                continue
            described: TeacherSpec | None = getattr(suite, need)
            if described is None:
                raise InvalidInput(
                    f"method {spec.name} needs a {need.replace('_', ' ')}, which {suite.name} does not name"
                )
            given[need] = _prerequisite(suite, need, described, custom, shared)
    return given


def _prerequisite(suite: Suite, need: str, spec: TeacherSpec, custom: bool, shared: Mapping[str, Any]) -> RunSpec | str:
    """A run of the plan, or the checkpoint that stands for it, identified by its content."""
    if spec.checkpoint is not None:
        path = Path(spec.checkpoint.removeprefix("file:"))
        if not path.is_file():
            raise Missing(f"suite {suite.name}: {need} {spec.checkpoint}: no such file")
        return f"file:{path}#{sha256(path.read_bytes()).hexdigest()[:12]}"
    if need == "natural_teacher":  # its robustness is about 0 at every epoch: selecting by it would pick an early one
        shared = {**shared, "selection": suite.selection.model_copy(update={"rule": "last"})}
    return RunSpec(
        method=resolve_method(spec.method),
        role=need.replace("_", "-"),
        model=spec.model or suite.model,
        recipe=suite.recipe.override(spec.recipe, f"suite {suite.name}'s {need.replace('_', ' ')}"),
        seed=spec.seed,
        custom=custom,
        **shared,
    )


def _evaluation_of(
    suite: Suite, need: str, checkpoint: str, dataset: Dataset, custom: bool, shared: Mapping[str, Any]
) -> RunSpec:
    """The run that puts a checkpoint's row on the board beside its students': evaluated once, and not trained."""
    path = Path(checkpoint.rpartition("#")[0].removeprefix("file:"))
    _, found = load_checkpoint(path)
    if (found.num_classes, found.shape) != (dataset.num_classes, dataset.shape):
        raise InvalidInput(
            f"suite {suite.name}: {need} {path}: made for {found.num_classes} classes of images {found.shape}, but "
            f"{suite.data.name} has {dataset.num_classes} of {dataset.shape}"
        )
    own = {
        "selection": suite.selection.model_copy(update={"rule": "last"}),
        "evaluation": suite.evaluation.model_copy(update={"last": ()}),  # it has no other checkpoint
    }
    return RunSpec(
        method=MethodSpec(name="checkpoint", base="checkpoint"),
        role=need.replace("_", "-"),
        model=found.spec,
        recipe=Recipe(),
        seed=0,
        checkpoint=checkpoint,
        custom=custom,
        **{**shared, **own},
    )


def _section(key: str) -> str:
    return key.partition(".")[0]


def _check_settings(overrides: Mapping[str, Any], methods: Sequence[str]) -> None:
    """Raise UnknownName for a setting of something that is no section of a suite and no part of the methods."""
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
