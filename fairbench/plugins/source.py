"""Plug-in files: finding their registrations by reading the source, and importing a file when its name is used."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from fairbench.errors import InvalidInput

__all__ = [
    "FAILURES",
    "Registration",
    "content_id",
    "import_entry",
    "installed",
    "modules_of",
    "own_files",
    "read_registrations",
]

MAX_SOURCE_BYTES = 10_000_000
# The errors of imported code that are reported. A signal to stop still ends the command.
FAILURES = (Exception, SystemExit, GeneratorExit)
# Packages whose versions stand in records, so that their files need no hash.
_VERSIONED = ("builtins", "fairbench", "torch")


@dataclass(frozen=True)
class Registration:
    """What a registration says about itself: its name, where it stands and its literal keyword arguments."""

    name: str
    path: Path
    module: str
    details: Mapping[str, Any] = field(default_factory=dict)


def installed(group: str) -> tuple[str, ...]:
    """Return the packages and modules that installed distributions name in an entry-point group.

    Their metadata is read again once a folder of `sys.path` has changed, as an installation does.
    """
    return _installed(group, tuple((place, _modified(place)) for place in sys.path))


@lru_cache(maxsize=32)
def _installed(group: str, _places: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    return tuple(point.value for point in entry_points(group=group))


def _modified(place: str) -> int:
    """Return when a folder or an archive was last changed, in nanoseconds; 0 where it does not exist."""
    try:
        return Path(place or ".").stat().st_mtime_ns
    except OSError:
        return 0


def modules_of(package: str) -> Iterator[tuple[Path, str]]:
    """Yield the files of a module or package with their import names; the package itself is not imported."""
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        spec = None
    except FAILURES as error:  # of a dotted name the parent package is imported
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput(f"the installed plug-in {package} cannot be imported: {reason}") from error
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        if spec.origin:
            yield Path(spec.origin).resolve(), package
        return
    for folder in spec.submodule_search_locations:
        for path in _files_in(folder, _modified(folder)):
            yield path, package if path.stem == "__init__" else f"{package}.{path.stem}"


@cache
def _files_in(folder: str, _changed: int) -> tuple[Path, ...]:
    return tuple(path.resolve() for path in sorted(Path(folder).glob("*.py")))


def read_registrations(path: Path, module: str, decorator: str) -> Iterator[Registration]:
    """Yield the registrations in one source file."""
    stamp = path.stat()
    for name, details in _registrations(path, decorator, stamp.st_mtime_ns, stamp.st_size):
        yield Registration(name, path, module, details)


@cache
def _registrations(path: Path, decorator: str, _modified: int, _size: int) -> list[tuple[str, dict[str, Any]]]:
    """Return names and keyword arguments in a source file; names of module-level literals are replaced by values."""
    tree = _parsed(path, _size)
    if decorator not in map(_called, ast.walk(tree)):
        return []
    constants = _constants(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and _called(node.func) == decorator:
            name = _literal(node.args[0], constants)
            if isinstance(name, str):
                details = {word.arg: _literal(word.value, constants) for word in node.keywords if word.arg}
                found.append((name, details))
    return found


def _parsed(path: Path, size: int) -> ast.Module:
    if size > MAX_SOURCE_BYTES:
        raise InvalidInput(f"{path}: larger than the {MAX_SOURCE_BYTES} bytes allowed for a plug-in")
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two for code nested too deeply
        raise InvalidInput(f"{path}: cannot be read as Python: {error}") from None


def _called(node: ast.AST) -> str | None:
    """Return the last part of a name: `register_method` of `fairbench.register_method`."""
    return getattr(node, "id", getattr(node, "attr", None))


def _constants(tree: ast.Module) -> dict[str, Any]:
    """Return the values of the names to which a module assigns literals."""
    found: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
            if isinstance(target, ast.Name):
                found[target.id] = _literal(statement.value, found)
    return found


def _literal(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return constants.get(node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return None


def import_entry(entry: Registration) -> None:
    """Import the file of a registration; raises InvalidInput with the file's name and the error that it raised."""
    try:
        if entry.module:
            importlib.import_module(entry.module)
        else:
            _import_file(entry.path)
    except FAILURES as error:
        raise InvalidInput(f"{entry.path}: {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> None:
    name = f"fairbench_plugin_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidInput(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def own_files(parts: Iterable[Any]) -> list[Path]:
    """Return the files that define functions and classes, without those of fairbench and torch.

    A part that was typed into an interpreter has no file.
    """
    modules = {str(getattr(part, "__module__", "")) for part in parts}
    foreign = {name for name in modules if name.partition(".")[0] not in _VERSIONED}
    named = {Path(str(getattr(sys.modules.get(name), "__file__", None))) for name in foreign}
    return sorted((path for path in named if path.is_file()), key=lambda path: (path.name, path))


def content_id(files: Iterable[Path]) -> str | None:
    """Return twelve hex digits that identify the content of files in their order; None without files."""
    content = [path.read_bytes() for path in files]
    return sha256(b"".join(content)).hexdigest()[:12] if content else None
