"""The facts about one registered name, as plain values and as text."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fairbench.data.sources import find_datasets
from fairbench.method.tunable import FEW_CLASSES
from fairbench.plugins.source import Registration
from fairbench.registry import Registry, datasets, methods, policies

__all__ = ["describe_name", "render_facts", "short"]

PROVENANCE = {
    "code": "reproduces the authors' published code",
    "paper": "follows the paper, also where the authors' code does something else",
    "reconstruction": "fills in what the published sources leave open",
    "ablation": "a variant of this project that isolates one part of a method",
    "composition": "parts combined here; no paper describes the combination",
}
_LEAST = 20  # columns of the last column of a table
HEADINGS = {
    "hyper_parameters": "hyper-parameters, as --set NAME=VALUE takes them",
    "search_space": "search space of tuning, beside the learning rate",
    "paper_recipe": "optimiser of the paper",
    "departures": "departures from the authors' code",
}
# Arguments of an attack that the evaluator passes, not the user.
GIVEN = {"model", "x", "y", "eps", "norm", "rng", "note"}
Rows = list[dict[str, Any]]


def describe_name(registry: Registry[Any], name: str) -> dict[str, Any]:
    """Return the facts about a name, or about a composition `base+policy`, as values that JSON can hold.

    Raises UnknownName, and InvalidInput for a composition whose parts do not fit.
    """
    explain: Callable[[str], dict[str, Any]] = {
        "method": _method,
        "class policy": _policy,
        "dataset": _dataset,
        "model": lambda name: _function(registry, name),
        "attack": lambda name: _function(registry, name),
        "logger": registry.details,
    }[registry.kind]
    return {"name": name, "kind": registry.kind} | explain(name)


def render_facts(facts: Mapping[str, Any]) -> str:
    """Format facts as text: a heading, labelled lines, and tables of the rows among them."""
    width = min(shutil.get_terminal_size((120, 24)).columns, 160)
    lines = [f"{facts['name']} ({facts['kind']})"]
    plain = {key: value for key, value in facts.items() if not _is_table(value) and value not in ("", None)}
    label = max(len(_title(key)) for key in plain) + 2
    for key, value in list(plain.items())[2:]:
        text = (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
        first, indent = f"  {_title(key):<{label}}", " " * (label + 2)
        lines += textwrap.wrap(text, width, initial_indent=first, subsequent_indent=indent)
    for key, rows in facts.items():
        if _is_table(rows):
            lines += ["", HEADINGS.get(key, _title(key)), *_table(rows, width)]
    return "\n".join(lines)


def _method(name: str) -> dict[str, Any]:
    from fairbench.method.composition import build_method, departures, paper_recipe, resolve_method, search_space

    first, *added = name.split("+")
    details = methods.details(first)
    spec = resolve_method(name)
    base = methods.get(spec.base)
    facts = _origin(methods.entry(first), details if not added else {}) | {
        "provenance": _provenance(spec.provenance),
        "base": spec.base,
        "policies": list(spec.policies),
        "needs": sorted(build_method(spec).required),
        "reads": _vectors(base.reads),
    }
    owners = {spec.base: base, **{policy: policies.get(policy) for policy in spec.policies}}
    rows: Rows = []
    listed: list[Any] = []
    for component, owner in reversed(owners.items()):
        shared = [] if added else listed  # `name.field` sets a field that several parts inherit in all of them
        rows += _hyper_parameters(component, owner, spec.options[component], name, rows, shared)
        listed.append(owner)
    return facts | {
        "hyper_parameters": rows,
        **_declared(search_space(name), paper_recipe(name), departures(name)),
    }


def _policy(name: str) -> dict[str, Any]:
    policy = policies.get(name)
    return _origin(policies.entry(name), policies.details(name)) | {
        "needs": list(policy.needs),
        "supplies": _vectors(policy.supplies),
        "hyper_parameters": _hyper_parameters(name, policy, policy.validate({}), name, []),
        **_declared(
            {f"{name}.{row.name}": row.search for row in policy.hyper_parameters() if row.search},
            policy.paper_recipe,
            policy.departures,
        ),
    }


def _declared(
    search: Mapping[str, Sequence[Any]], recipe: Mapping[str, Any], departures: Sequence[str]
) -> dict[str, Rows]:
    """What a method or policy declares about its paper, as rows."""
    return {
        "search_space": [{"name": key, "values": list(values)} for key, values in search.items()],
        "paper_recipe": [{"setting": key, "value": value} for key, value in recipe.items()],
        "departures": [{"sentence": sentence} for sentence in departures],
    }


def _hyper_parameters(
    component: str, owner: Any, values: Mapping[str, Any], name: str, before: Rows, shared: Sequence[Any] = ()
) -> Rows:
    """Rows of one part; a name that an earlier part of the method uses is written with the part's own name.

    Fields that the part inherits from a class of another part in `shared` have a row already and get no second one.
    """
    known = {row["name"] for row in before}
    rows: Rows = []
    for parameter in owner.hyper_parameters():
        if any(other.declares(parameter.name) is owner.declares(parameter.name) for other in shared):
            continue
        value, source, kind = values[parameter.name], parameter.source, parameter.type
        if kind.startswith("Literal["):
            source, kind = f"{source}; one of " + kind[8:-1].replace("'", ""), "word"
        if parameter.many_classes is not None:
            source += f"; {short(parameter.many_classes)} above {FEW_CLASSES} classes"
        if value != parameter.default:
            source = f"set by {name}; otherwise {short(parameter.default)} ({source})"
        key = f"{component if '+' in name else name}.{parameter.name}"
        key = f"{component}.{parameter.name}" if key in known else key
        rows.append({"name": key, "type": kind, "default": value, "source": source})
    return rows


def _dataset(name: str) -> dict[str, Any]:
    details = datasets.details(name)
    return _origin(datasets.entry(name), details) | {"classes": details.get("classes"), "found": find_datasets()[name]}


def _function(registry: Registry[Any], name: str) -> dict[str, Any]:
    function = registry.get(name)
    hints = get_type_hints(function) if inspect.isfunction(function) else {}
    arguments = [
        {
            "name": parameter.name,
            "type": _type(hints.get(parameter.name, "")),
            "default": "follows from eps" if parameter.default is parameter.empty else parameter.default,
        }
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in GIVEN
    ]
    if registry.kind == "attack":
        arguments += _of_every_attack({argument["name"] for argument in arguments})
    usage = [name]
    if any(argument["name"] == "steps" for argument in arguments):
        usage.append(f"{name}-STEPS")
    if arguments:
        usage.append(f"{usage[-1]}:NAME=VALUE,...")
    return _origin(registry.entry(name), registry.details(name)) | {"usage": usage, "arguments": arguments}


def _of_every_attack(known: set[str]) -> Rows:
    """The arguments that `fairbench.attacks.resolve` reads in an attack's name, whatever its function takes."""
    rows: Rows = [{"name": "rel_step", "type": "float", "default": "none: in place of step, in units of eps"}]
    rows = rows if "step" in known else []
    return [*rows, {"name": "per_class", "type": "int", "default": "none: all images; K takes the first K of a class"}]


def _origin(entry: Registration, details: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "summary": str(details.get("summary") or ""),
        "citation": str(details.get("citation") or ""),
        "defined_in": entry.module or str(entry.path),
    }


def _provenance(word: str) -> str:
    return f"{word}: {PROVENANCE[word]}" if word in PROVENANCE else word or "not stated"


def _vectors(names: Sequence[str]) -> Rows:
    from fairbench.method.policy import VECTORS

    return [{"vector": name, "meaning": VECTORS.get(name, "")} for name in names]


def _type(hint: Any) -> str:
    """Format a type for a reader: alternatives with bars, any callable as `function`."""
    origin = get_origin(hint)
    if origin in (Union, UnionType, Literal):
        return " | ".join(_type(part) for part in get_args(hint))
    if origin is Callable:
        return "function"
    return str(hint) if origin or isinstance(hint, str) else getattr(hint, "__name__", str(hint))


def short(value: Any) -> str:
    """Return a setting as text; floats with six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple | list):
        return ", ".join(map(short, value)) or "none"
    return str(value)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _title(key: str) -> str:
    return key.replace("hyper_", "hyper-").replace("_", " ")


def _table(rows: Rows, width: int) -> list[str]:
    """Columns below their headings, the last one wrapped; where there is no room for it, each row as a paragraph."""
    cells = [[_title(key) for key in rows[0]], *([short(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]) - 1)]
    lines: list[str] = []
    if width < 2 + sum(widths) + 2 * len(widths) + _LEAST:
        for name, *rest in cells[1:]:
            told = "; ".join(f"{title} {text}" for title, text in zip(cells[0][1:], rest, strict=True) if text)
            lines += [f"  {name}", *textwrap.wrap(told, width, initial_indent=" " * 6, subsequent_indent=" " * 6)]
        return lines
    for row in cells:
        head = "  " + "".join(f"{cell:<{size}}  " for cell, size in zip(row, widths, strict=False))
        for number, text in enumerate(textwrap.wrap(row[-1], width - len(head)) or [""]):
            lines.append(((head if number == 0 else " " * len(head)) + text).rstrip())
    return lines
