"""What a listing shows of one name: a method with its hyper-parameters and sources, or any other registered thing."""

from __future__ import annotations

import inspect
from typing import Any

from fairbench import registry

__all__ = ["describe", "render"]

PROVENANCE = {
    "code": "follows the authors' released code",
    "paper": "follows the paper",
    "reconstruction": "reconstructed from an abstract: not a reproduction",
    "composition": "a combination of parts; no paper reports it",
}


def describe(registered: registry.Registry[Any], name: str) -> dict[str, Any]:
    """Return what is known about a name, ready for JSON; a method's parts are resolved. Raises UnknownName."""
    if registered is registry.methods:
        return _describe_method(name)
    details = registered.details(name)
    value = registered.get(name)
    facts = {"name": name, "kind": registered.kind, **details}
    if hasattr(value, "hyper_parameters"):
        facts["supplies"] = list(value.supplies)
        facts["hyper_parameters"] = _rows(name, value, {})
    elif callable(value):
        facts["arguments"] = [
            f"{parameter.name}={parameter.default}"
            for parameter in inspect.signature(value).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
        ]
    facts["description"] = (inspect.getdoc(value) or "").split("\n\n")[0]
    return facts


def render(facts: dict[str, Any]) -> str:
    """Write facts as text: a line each, tables with aligned columns."""
    lines = []
    for key, value in facts.items():
        label = key.replace("hyper_", "hyper-").replace("_", " ")
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{label}:")
            lines += _table(value)
        elif isinstance(value, list | tuple):
            lines.append(f"{label}: {', '.join(map(str, value)) or '-'}")
        else:
            lines.append(f"{label}: {value if value not in ('', None) else '-'}")
    return "\n".join(lines)


def _describe_method(name: str) -> dict[str, Any]:
    from fairbench.plan import build_method, resolve_method

    spec = resolve_method(name)
    method = build_method(spec)
    details = registry.methods.details(name.partition("+")[0])
    classes = {spec.base: type(method), **dict(zip(spec.policies, map(type, method.policies), strict=True))}
    return {
        "name": name,
        "summary": details.get("summary", ""),
        "citation": details.get("citation", ""),
        "provenance": f"{spec.provenance} ({PROVENANCE.get(spec.provenance, 'as its author says')})",
        "base": spec.base,
        "policies": list(spec.policies),
        "needs": sorted(method.required),
        "reads": list(method.reads),
        "hyper_parameters": [
            row for component, cls in classes.items() for row in _rows(name, cls, dict(spec.options[component]))
        ],
    }


def _rows(prefix: str, cls: Any, values: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "setting": f"{prefix}.{parameter.name}",
            "type": parameter.type,
            "default": values.get(parameter.name, parameter.default),
            "source": parameter.source,
        }
        for parameter in cls.hyper_parameters()
    ]


def _table(rows: list[dict[str, Any]]) -> list[str]:
    cells = [list(rows[0]), *([_short(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(_short(item) for item in value) + ")"
    return str(value)
