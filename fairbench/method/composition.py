"""A method's name resolved to its parts: `base`, a named composition, or `base+policy+policy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairbench import registry
from fairbench.errors import InvalidInput, UnknownName
from fairbench.method.method import Method
from fairbench.method.policy import ClassPolicy
from fairbench.plugins.source import Registration, content_id
from fairbench.suites.sections import MethodSpec

__all__ = [
    "build_method",
    "check_composition",
    "departures",
    "method_parts",
    "paper_recipe",
    "part_settings",
    "resolve_method",
    "search_space",
]


def resolve_method(
    name: str, overrides: Mapping[str, Any] | None = None, *, num_classes: int | None = None
) -> MethodSpec:
    """Resolve `sat`, a named composition or `base+policy+policy` to its parts with all hyper-parameters.

    `overrides` maps `component.field` to values, where the component is the method or a part of it; settings of other
    components are ignored. Some defaults depend on the dataset's `num_classes`. Raises UnknownName and InvalidInput.
    """
    details, classes = method_parts(name)
    base, *policies = classes
    values: dict[str, dict[str, Any]] = {component: {} for component in classes}
    options: dict[str, Any] = dict(details.get("options") or {})
    for key, value in [*options.items(), *(overrides or {}).items()]:
        component, _, field = key.rpartition(".")
        owners = _owners(field, classes, name) if component in ("", name) else [component]
        for owner in classes.keys() & owners:
            values[owner][field] = value
        if not classes.keys() & owners and key in options:
            raise UnknownName(f"option of {name}", key, part_settings(classes))
    return MethodSpec(
        name=name,
        base=base,
        policies=tuple(policies),
        options={part: cls.validate(values[part], num_classes) for part, cls in classes.items()},
        provenance=str(details.get("provenance", "")) if "+" not in name else "composition",
        source_hash=_source_hash([registry.methods.entry(base), *(registry.policies.entry(p) for p in policies)]),
    )


def build_method(spec: MethodSpec) -> Method:
    """Instantiate the method a specification describes."""
    base: type[Method] = registry.methods.get(spec.base)
    method = base(**spec.options[spec.base])
    method.policies = [registry.policies.get(name)(**spec.options[name]) for name in spec.policies]
    return method


def check_composition(name: str, base: type[Method], policies: Sequence[type[ClassPolicy]]) -> None:
    """Raise InvalidInput for a part of the wrong type, and for a policy with vectors that the base does not read."""
    for part, kind in ((base, Method), *((policy, ClassPolicy) for policy in policies)):
        if not (isinstance(part, type) and issubclass(part, kind)):
            raise InvalidInput(f"{name}: {getattr(part, '__name__', repr(part))} is no {kind.__name__}")
    for policy in policies:
        unread = [vector for vector in policy.supplies if vector not in base.reads]
        if unread:
            raise InvalidInput(
                f"{name}: {policy.__name__} steers by {', '.join(unread)}, which {base.__name__} does not read "
                f"(it reads: {', '.join(base.reads) or 'nothing'})"
            )


def method_parts(name: str) -> tuple[Mapping[str, Any], dict[str, type[Method] | type[ClassPolicy]]]:
    """The details that a method was registered with, and its classes by name: the base, then the policies."""
    base, *policies = name.split("+")
    registered = registry.methods.get(base)
    details = registry.methods.details(base)
    if "base" in details:
        policies = [*details.get("policies", ()), *policies]
        base = details["base"]
        registered = registry.methods.get(base)
    classes: dict[str, Any] = {base: registered}
    for policy in policies:
        if policy in classes:
            raise InvalidInput(f"{name}: {policy} is in it twice")
        classes[policy] = registry.policies.get(policy)
    check_composition(name, registered, [classes[policy] for policy in policies])
    return details, classes


def departures(name: str) -> list[str]:
    """Sentences on the differences from the authors' code, of the base and then of each policy."""
    classes = method_parts(name)[1].values()
    return list(dict.fromkeys(sentence for cls in classes for sentence in cls.departures))


def paper_recipe(name: str) -> dict[str, Any]:
    """Optimiser settings of a method's paper, those of its policies over those of its base."""
    settings: dict[str, Any] = {}
    for cls in method_parts(name)[1].values():
        settings |= cls.paper_recipe
    return settings


def search_space(name: str) -> dict[str, tuple[Any, ...]]:
    """Values that tuning tries of each declared knob, by `name.field`: those of the policies, then those of the base.

    The first entry is the method's main knob. A knob that several policies inherit from one class is one entry.
    """
    found: dict[str, tuple[Any, ...]] = {}
    base, *policies = method_parts(name)[1].values()
    for cls in (*policies, base):
        for parameter in reversed(cls.hyper_parameters()):  # a class's own knobs before those it inherits
            if parameter.search:
                found.setdefault(f"{name}.{parameter.name}", parameter.search)
    return found


def _owners(field: str, classes: Mapping[str, type[Method] | type[ClassPolicy]], name: str) -> list[str]:
    """The parts of a method with this hyper-parameter, policies before the base.

    Several parts have it only if they inherit it from one class: DAFA's weights and margins share their lambda.
    """
    for cls in reversed(list(classes.values())):
        if cls.declares(field):
            return [other for other, part in classes.items() if part.declares(field) is cls.declares(field)]
    raise UnknownName(f"hyper-parameter of {name}", field, [key.rpartition(".")[2] for key in part_settings(classes)])


def part_settings(classes: Mapping[str, type[Method] | type[ClassPolicy]], owner: str | None = None) -> list[str]:
    """The name `component.field` of every hyper-parameter, or `owner.field`."""
    return [
        f"{owner or component}.{parameter.name}"
        for component, cls in classes.items()
        for parameter in cls.hyper_parameters()
    ]


def _source_hash(entries: Sequence[Registration]) -> str:
    """Hash of the source of plug-in parts; the version of the package identifies its own parts."""
    return content_id(entry.path for entry in entries if not entry.module.startswith("fairbench.methods")) or ""
