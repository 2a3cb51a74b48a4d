"""The registries of methods, class policies, datasets, models, attacks, losses and loggers.

A registry finds names in two ways. *Reading*: it parses the source files of plug-ins and collects the literal arguments
of `@register_...` calls, so that a listing neither runs plug-in code nor imports torch. *Importing*: `get` imports the
file that registers the requested name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from fairbench.errors import InvalidInput, Missing, UnknownName
from fairbench.plugins.source import Registration, import_entry, installed, modules_of, read_registrations

__all__ = [
    "RESERVED",
    "Registry",
    "add_plugin",
    "attacks",
    "datasets",
    "loggers",
    "losses",
    "methods",
    "models",
    "plugin_files",
    "policies",
]

# No method has one of these names: `--methods` gives the first two a meaning, boards give the others to other models.
RESERVED = ("all", "shared", "teacher", "natural-teacher", "warm-start")

T = TypeVar("T")
C = TypeVar("C")

_plugin_files: dict[Path, None] = {}


class Registry(Generic[T]):
    """The names of one kind, found in the built-in package, in installed plug-ins, in `./methods` and in single files.

    `kind` is the word in messages, `decorator` the function whose calls register a name, `group` the entry-point group
    of installed plug-ins, `home` the built-in package if it is no entry point.
    """

    def __init__(self, kind: str, *, decorator: str, group: str, home: str | None = None) -> None:
        self.kind = kind
        self.decorator = decorator
        self.group = group
        self.home = home
        self._loaded: dict[str, T] = {}
        self._details: dict[str, dict[str, Any]] = {}
        self._source: dict[str, str] = {}
        self._rivals: dict[str, tuple[Path, Path]] = {}

    def register(self, name: str, value: T, details: Mapping[str, Any]) -> None:
        """Add a name; raises InvalidInput if a file of other content has registered it, or if it cannot be part of a
        path.
        """
        source = _registering_file()
        self._check_name(name, source)
        earlier = self._source.get(name)
        if earlier is not None and earlier != source and not _same_content(Path(earlier), Path(source)):
            raise self._twice(name, Path(earlier), Path(source))
        self._loaded[name], self._details[name], self._source[name] = value, dict(details), source

    def decorate(self, name: str, **details: Any) -> Callable[[C], C]:
        """Return the class or function decorator that registers its object under `name`."""

        def keep(value: C) -> C:
            self.register(name, value, details)  # type: ignore[arg-type]
            return value

        return keep

    def scan(self) -> dict[str, Registration]:
        """Read all files that may hold plug-ins, without importing any, and return their registrations by name.

        Two files of equal content count as one. A name that two different files register stands for the first of them
        here; using it is an error (`entry`, `get`).
        """
        found: dict[str, Registration] = {}
        self._rivals.clear()
        for path, module in self._files():
            for entry in read_registrations(path, module, self.decorator):
                self._check_name(entry.name, path)
                known = found.setdefault(entry.name, entry)
                if known is not entry and (known.path == path or not _same_content(known.path, path)):
                    self._rivals.setdefault(entry.name, (known.path, path))
        for name in self._loaded.keys() - found.keys():
            found[name] = Registration(name, Path(self._source[name]), "", self._details[name])
        return dict(sorted(found.items()))

    def rivals(self) -> list[InvalidInput]:
        """Return an error for each name that two files of different content register."""
        self.scan()
        return [self._twice(name, *paths) for name, paths in self._rivals.items()]

    def names(self) -> list[str]:
        """Return every known name, sorted."""
        return list(self.scan())

    def details(self, name: str) -> dict[str, Any]:
        """Return the keyword arguments that a name was registered with; raises UnknownName."""
        if name in self._details and name not in self._rivals:
            return self._details[name]
        return dict(self.entry(name).details)

    def entry(self, name: str) -> Registration:
        """Return the registration of a name without importing it; raises UnknownName, and InvalidInput if two files
        have it.
        """
        known = self.scan()
        if name not in known:
            raise UnknownName(self.kind, name, known)
        if name in self._rivals:
            raise self._twice(name, *self._rivals[name])
        return known[name]

    def get(self, name: str) -> T:
        """Return the registered object, importing the file that registers it; raises UnknownName and InvalidInput."""
        if name not in self._loaded or name in self._rivals:
            entry = self.entry(name)
            import_entry(entry)
            if name not in self._loaded:
                raise InvalidInput(f"{entry.path}: was imported and has not registered {self.kind} {name!r}")
        return self._loaded[name]

    def _twice(self, name: str, first: Path, second: Path) -> InvalidInput:
        if first == second:
            return InvalidInput(f"{self.kind} {name!r} is registered twice in {first}")
        places = f"in {first} and in {second}, which differ"
        return InvalidInput(f"{self.kind} {name!r} is registered twice: {places}; rename one, or start elsewhere")

    def _check_name(self, name: str, source: str | Path) -> None:
        """Raise InvalidInput for a name that cannot be a folder, contains one of the separators `+`, `:` and `,`, or
        stands for something else where methods are named.
        """
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", name):
            raise InvalidInput(
                f"{self.kind} {name!r} in {source}: a name is at most 80 letters, digits, '_', '.' and '-', "
                "the first no '.' or '-'"
            )
        if self.kind == "method" and name in RESERVED:
            raise InvalidInput(f"method {name!r} in {source}: options and boards use this name for something else")

    def _files(self) -> Iterator[tuple[Path, str]]:
        seen: set[Path] = set()
        packages = [self.home] if self.home else []
        packages += installed(self.group)
        for package in packages:
            for path, module in modules_of(package):
                if path not in seen:
                    seen.add(path)
                    yield path, module
        local = sorted(Path("methods").glob("*.py")) if self.group == "fairbench.methods" else []
        local = [path for path in local if path.is_file()]  # no folder, pipe, or broken or circular link
        for path in [*local, *_plugin_files]:
            resolved = path.resolve()
            if resolved not in seen:
                seen.add(resolved)
                yield resolved, ""


def _same_content(first: Path, second: Path) -> bool:
    """Tell whether two paths are one file, or two files with the same bytes."""
    if first == second:
        return True
    try:
        return first.read_bytes() == second.read_bytes()
    except OSError:  # code typed into an interpreter has no file
        return False


def add_plugin(path: str | Path) -> Path:
    """Register the names of a single Python file; raises Missing if there is no such file."""
    if not Path(path).is_file() or Path(path).resolve().suffix != ".py":
        raise Missing(f"--plugin {path}: not a Python file")
    resolved = Path(path).resolve()
    _plugin_files[resolved] = None
    return resolved


def plugin_files() -> list[Path]:
    """Return the single Python files that were added, in their order."""
    return list(_plugin_files)


methods: Registry[Any] = Registry("method", decorator="register_method", group="fairbench.methods")
policies: Registry[Any] = Registry("class policy", decorator="register_policy", group="fairbench.methods")
datasets: Registry[Any] = Registry(
    "dataset", decorator="register_dataset", group="fairbench.datasets", home="fairbench.data"
)
models: Registry[Any] = Registry("model", decorator="register_model", group="fairbench.models", home="fairbench.models")
attacks: Registry[Any] = Registry(
    "attack", decorator="register_attack", group="fairbench.attacks", home="fairbench.attacks"
)
losses: Registry[Any] = Registry("loss", decorator="register_loss", group="fairbench.attacks", home="fairbench.attacks")
loggers: Registry[Any] = Registry(
    "logger", decorator="register_logger", group="fairbench.loggers", home="fairbench.train"
)


def _registering_file() -> str:
    """Return the file whose code registers a name: the nearest caller outside this module and the decorators'."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") in (__name__, "fairbench.registration"):
        frame = frame.f_back
    return str(frame.f_globals.get("__file__", "<interactive>"))
