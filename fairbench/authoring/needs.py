"""The needs of methods beside the training images, read from their source files without importing them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from fairbench.plugins.source import Registration

__all__ = ["needs_of"]


def needs_of(name: str, methods: Mapping[str, Registration], policies: Mapping[str, Registration]) -> tuple[str, ...]:
    """Return the needs of a registered method, sorted, of teacher, natural_teacher, warm_start and method_split.

    These are the `needs` of its base objective and of its class policies; none for a method that needs nothing else. A
    class that is built at run time cannot be read from its source, and counts as one without needs.
    """
    entry = methods.get(name)
    if entry is None:
        return ()
    base, parts = entry.details.get("base"), entry.details.get("policies") or ()
    found = set(_of_class(entry.path, _decorated(entry.path, name)))
    if isinstance(base, str) and base != name:
        found.update(needs_of(base, methods, policies))
    for part in parts if isinstance(parts, list | tuple) else ():
        policy = policies.get(str(part))
        if policy is not None:
            found.update(_of_class(policy.path, _decorated(policy.path, str(part))))
    return tuple(sorted(found))


def _of_class(path: Path, name: str) -> tuple[str, ...]:
    """The `needs` of a class: its own, otherwise those of the first base class that declares any."""
    classes, imported = _classes(path)
    if name not in classes:
        source = imported.get(name)
        return () if source is None else _of_class(*source)
    own = _assigned(classes[name])
    if own is not None:
        return own
    bases = [_of_class(path, base.id) for base in classes[name].bases if isinstance(base, ast.Name) and base.id != name]
    return next(filter(None, bases), ())


def _assigned(found: ast.ClassDef) -> tuple[str, ...] | None:
    """The value of `needs` in the body of a class; None without one."""
    for line in found.body:
        targets = (
            line.targets if isinstance(line, ast.Assign) else [line.target] if isinstance(line, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "needs" for target in targets):
            value = getattr(line, "value", None)
            return tuple(map(str, ast.literal_eval(value))) if isinstance(value, ast.Tuple | ast.List) else ()
    return None


def _decorated(path: Path, name: str) -> str:
    """The class that a decorator with this name as its first argument registers; empty without one."""
    for class_name, found in _classes(path)[0].items():
        calls = [one for one in found.decorator_list if isinstance(one, ast.Call) and one.args]
        if any(isinstance(call.args[0], ast.Constant) and call.args[0].value == name for call in calls):
            return class_name
    return ""


@cache
def _classes(path: Path) -> tuple[dict[str, ast.ClassDef], dict[str, tuple[Path, str]]]:
    """The classes of a file by name, and the file and name of each class that it imports from a neighbour."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    imported: dict[str, tuple[Path, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            source = path.parent / f"{node.module.rpartition('.')[2]}.py"
            if source.is_file():
                imported |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}
    return classes, imported
