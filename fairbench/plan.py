"""Suite -> plan: the runs a benchmark consists of, teachers before their students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fairbench import registry
from fairbench.config import Environment, MethodSpec, Recipe, RunSpec, Suite, TeacherSpec
from fairbench.data import load_dataset
from fairbench.errors import InvalidInput, Missing, UnknownName
from fairbench.method import ClassPolicy, Method, check_composition

__all__ = ["build_method", "plan", "resolve_method"]

SECTIONS = ("recipe", "threat", "data", "selection", "evaluation")
PREREQUISITES = ("teacher", "natural_teacher", "warm_start")


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
    marked custom and never ranked. Raises UnknownName and InvalidInput.
    """
    overrides = dict(overrides or {})
    names = list(dict.fromkeys(methods or suite.methods))
    changes = {key: value for key, value in overrides.items() if _section(key) in SECTIONS or "." not in key}
    tuned = {key: value for key, value in overrides.items() if key not in changes}
    changed = suite.override(changes)
    suite, custom = changed, changed != suite
    data_hash = load_dataset(suite.data.name).hash
    shared: dict[str, Any] = {
        "suite": suite.name,
        "version": suite.version,
        "data": suite.data,
        "data_hash": data_hash,
        "threat": suite.threat,
        "selection": suite.selection,
        "evaluation": suite.evaluation,
        "environment": environment or Environment(torch=version("torch")),
        "protocol": suite.protocol(data_hash),
        "quick": suite.is_quick,
        "plugins": tuple(plugins),
        "command": command,
    }
    resolved = [resolve_method(name, tuned, names) for name in names]
    untuned = [resolve_method(name) for name in names]
    given = _prerequisites(suite, resolved, custom, shared)
    runs = [spec for spec in given.values() if isinstance(spec, RunSpec)]
    for spec, default in zip(resolved, untuned, strict=True):
        method = build_method(spec)
        recipe = _own_recipe(method, suite.recipe)
        for seed in seeds if seeds is not None else suite.seeds:
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


def resolve_method(name: str, overrides: Mapping[str, Any] | None = None, planned: Sequence[str] = ()) -> MethodSpec:
    """Resolve `sat`, a named composition or `base+policy+policy` to its parts with all hyper-parameters.

    `overrides` keys are `component.field`; `planned` are the names a component may also belong to. Raises UnknownName.
    """
    overrides = overrides or {}
    base, *policies = name.split("+")
    details = registry.methods.details(base)
    options: dict[str, Any] = dict(details.get("options") or {})
    if "base" in details:
        policies = [*details.get("policies", ()), *policies]
        base = details["base"]
    classes: dict[str, type[Method] | type[ClassPolicy]] = {base: registry.methods.get(base)}
    classes |= {policy: registry.policies.get(policy) for policy in policies}
    check_composition(name, classes[base], [classes[policy] for policy in policies])  # type: ignore[arg-type, misc]
    values: dict[str, dict[str, Any]] = {component: {} for component in classes}
    for key, value in options.items():
        component, _, field = key.rpartition(".")
        values[component or _owner(field, classes, name)][field] = value
    for key, value in overrides.items():
        component, _, field = key.rpartition(".")
        if component == name:
            component = _owner(field, classes, name)
        if component in classes:
            values[component][field] = value
        elif component not in planned and not any(component in _parts(other) for other in planned):
            raise UnknownName("setting", key, [*_settings(classes, name), *(f"{section}." for section in SECTIONS)])
    return MethodSpec(
        name=name,
        base=base,
        policies=tuple(policies),
        options={component: cls.validate(values[component]) for component, cls in classes.items()},
        provenance=str(details.get("provenance", "")) if len(name.split("+")) == 1 else "composition",
        source_hash=_source_hash([registry.methods.entry(base), *(registry.policies.entry(p) for p in policies)]),
    )


def build_method(spec: MethodSpec) -> Method:
    """Instantiate the method a specification describes."""
    base: type[Method] = registry.methods.get(spec.base)
    method = base(**spec.options[spec.base])
    method.policies = [registry.policies.get(name)(**spec.options[name]) for name in spec.policies]
    return method


def _own_recipe(method: Method, recipe: Recipe) -> Recipe:
    """The suite's recipe with what the method and its policies must have otherwise; epochs scale with the suite's."""
    own: dict[str, Any] = {}
    for part in (method, *method.policies):
        own |= part.own_recipe
    if "epochs" in own:
        own["epochs"] = max(1, round(own["epochs"] * recipe.epochs))
    return recipe.model_copy(update=own)


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
    recipe = suite.recipe.model_copy(update=dict(spec.recipe))
    recipe = type(recipe).model_validate(recipe.model_dump())
    return RunSpec(
        method=resolve_method(spec.method),
        role=need.replace("_", "-"),
        model=spec.model or suite.model,
        recipe=recipe,
        seed=spec.seed,
        custom=custom,
        **shared,
    )


def _section(key: str) -> str:
    return key.partition(".")[0]


def _parts(name: str) -> list[str]:
    base, *policies = name.split("+")
    details = registry.methods.details(base)
    return [base, str(details.get("base", base)), *details.get("policies", ()), *policies]


def _owner(field: str, classes: Mapping[str, type[Method] | type[ClassPolicy]], name: str) -> str:
    """The one component of a method that has this hyper-parameter, policies before the base."""
    for component, cls in reversed(list(classes.items())):
        if field in {parameter.name for parameter in cls.hyper_parameters()}:
            return component
    raise UnknownName(f"hyper-parameter of {name}", field, [key.rpartition(".")[2] for key in _settings(classes, name)])


def _settings(classes: Mapping[str, type[Method] | type[ClassPolicy]], name: str) -> list[str]:
    return [f"{name}.{parameter.name}" for cls in classes.values() for parameter in cls.hyper_parameters()]


def _source_hash(entries: Sequence[registry.Entry]) -> str:
    """Hash of the source of parts that are not the package's own, whose version does not vouch for them."""
    foreign = [entry for entry in entries if not entry.module.startswith("fairbench.methods")]
    return sha256(b"".join(entry.path.read_bytes() for entry in foreign)).hexdigest()[:12] if foreign else ""
