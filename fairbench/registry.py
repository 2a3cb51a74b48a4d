"""One registry for methods, class policies, datasets, models, attacks, their losses and suites.

A registry knows two ways to learn a name. *Reading*: it parses the source of the places where plug-ins live and
collects the literal arguments of `@register_...` calls, so that a listing neither runs foreign code nor imports torch.
*Importing*: `get` imports the one file that registers the name that was asked for.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from fairbench.errors import InvalidInput, Missing, UnknownName

__all__ = [
    "MODEL_SOURCES",
    "Call",
    "Entry",
    "Registry",
    "add_plugin",
    "attacks",
    "code_of_attack",
    "datasets",
    "import_callable",
    "losses",
    "methods",
    "models",
    "names_code",
    "parse_call",
    "parse_value",
    "policies",
    "register_attack",
    "register_dataset",
    "register_loss",
    "register_method",
    "register_model",
    "register_policy",
]

T = TypeVar("T")
C = TypeVar("C")

# What stands before the colon of a model that is opened and not imported.
MODEL_SOURCES = ("file", "robustbench", "timm", "torchvision", "pyautoattack")

MAX_SOURCE_BYTES = 10_000_000
# What code may raise while it is imported. A signal to stop is none of these, and ends the command as it should.
FAILURES = (Exception, SystemExit, GeneratorExit)

_plugin_files: dict[Path, None] = {}


@dataclass(frozen=True)
class Entry:
    """What a registration says about itself: its name, where it stands and its literal keyword arguments."""

    name: str
    path: Path
    module: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """A name with arguments, as users write it: `pgd-20:step=0.003,iterate=last`."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Write the call back in its canonical form, arguments sorted by name."""
        if not self.arguments:
            return self.name
        return self.name + ":" + ",".join(f"{key}={value}" for key, value in sorted(self.arguments.items()))


class Registry(Generic[T]):
    """Names of one kind, found in the built-in package, in installed plug-ins, in `./methods` and in loose files.

    `kind` is the word used in messages, `decorator` the function whose calls register a name, `group` the entry-point
    group of installed plug-ins and `home` the built-in package, where it is not itself an entry point.
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
        """Add a name; raises InvalidInput when a file of other content has taken it or it cannot be part of a path."""
        source = _registering_file()
        self._check_name(name, source)
        taken = self._source.get(name)
        if taken is not None and taken != source and not _same_content(Path(taken), Path(source)):
            raise self._twice(name, Path(taken), Path(source))
        self._loaded[name], self._details[name], self._source[name] = value, dict(details), source

    def decorate(self, name: str, **details: Any) -> Callable[[C], C]:
        """Return the class or function decorator that registers its object under `name`."""

        def keep(value: C) -> C:
            self.register(name, value, details)  # type: ignore[arg-type]
            return value

        return keep

    def scan(self) -> dict[str, Entry]:
        """Read every place plug-ins live, without importing any, and return what they register, by name.

        Two files of the same content count as one. A name that two different files register stands for the first of
        them here, and is an error when it is used (`entry`, `get`).
        """
        found: dict[str, Entry] = {}
        self._rivals.clear()
        for path, module in self._files():
            for entry in _read(path, module, self.decorator):
                self._check_name(entry.name, path)
                known = found.setdefault(entry.name, entry)
                if known is not entry and (known.path == path or not _same_content(known.path, path)):
                    self._rivals.setdefault(entry.name, (known.path, path))
        for name in self._loaded.keys() - found.keys():
            found[name] = Entry(name, Path(self._source[name]), "", self._details[name])
        return dict(sorted(found.items()))

    def rivals(self) -> list[InvalidInput]:
        """Return an error for each name that two files of different content register."""
        self.scan()
        return [self._twice(name, *paths) for name, paths in self._rivals.items()]

    def names(self) -> list[str]:
        """Return every known name, sorted."""
        return list(self.scan())

    def details(self, name: str) -> dict[str, Any]:
        """Return the keyword arguments a name was registered with; raises UnknownName."""
        if name in self._details:
            return self._details[name]
        return dict(self.entry(name).details)

    def entry(self, name: str) -> Entry:
        """Return what is known about a name without importing it; raises UnknownName, InvalidInput for two files."""
        known = self.scan()
        if name not in known:
            raise UnknownName(self.kind, name, known)
        if name in self._rivals:
            raise self._twice(name, *self._rivals[name])
        return known[name]

    def get(self, name: str) -> T:
        """Return the registered object, importing the file that registers it; raises UnknownName and InvalidInput."""
        if name not in self._loaded:
            entry = self.entry(name)
            _import(entry)
            if name not in self._loaded:
                raise InvalidInput(f"{entry.path}: was imported and has not registered {self.kind} {name!r}")
        return self._loaded[name]

    def _twice(self, name: str, first: Path, second: Path) -> InvalidInput:
        if first == second:
            return InvalidInput(f"{self.kind} {name!r} is registered twice in {first}")
        places = f"in {first} and in {second}, which differ"
        return InvalidInput(f"{self.kind} {name!r} is registered twice: {places}; rename one, or start elsewhere")

    def _check_name(self, name: str, source: str | Path) -> None:
        """Names become folders, and `+`, `:` and `,` separate them from other things."""
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", name):
            raise InvalidInput(
                f"{self.kind} {name!r} in {source}: a name is at most 80 letters, digits, '_', '.' and '-', "
                "the first no '.' or '-'"
            )

    def _files(self) -> Iterator[tuple[Path, str]]:
        seen: set[Path] = set()
        packages = [self.home] if self.home else []
        packages += [point.value for point in entry_points(group=self.group)]
        for package in packages:
            for path, module in _modules(package):
                if path not in seen:
                    seen.add(path)
                    yield path, module
        local = sorted(Path("methods").glob("*.py")) if self.group == "fairbench.methods" else []
        local = [path for path in local if path.is_file()]  # no folder, pipe, or link that leads nowhere or to itself
        for path in [*local, *_plugin_files]:
            resolved = path.resolve()
            if resolved not in seen:
                seen.add(resolved)
                yield resolved, ""


def _same_content(first: Path, second: Path) -> bool:
    """Whether two paths are one file or two files of the same bytes."""
    if first == second:
        return True
    try:
        return first.read_bytes() == second.read_bytes()
    except OSError:  # code that was typed in has no file
        return False


def add_plugin(path: str | Path) -> Path:
    """Make the registrations of a loose Python file known; raises Missing when there is no such file."""
    if not Path(path).is_file() or Path(path).resolve().suffix != ".py":
        raise Missing(f"--plugin {path}: not a Python file")
    resolved = Path(path).resolve()
    _plugin_files[resolved] = None
    return resolved


def parse_call(text: str) -> Call:
    """Split `name:key=value,...` into its parts; values become int, float, bool or stay text; `8/255` is a float.

    Raises InvalidInput for an argument without `=`, a key that is no identifier or one that is given twice.
    """
    name, _, rest = text.partition(":")
    arguments: dict[str, Any] = {}
    for piece in filter(None, rest.split(",")):
        key, equals, value = piece.partition("=")
        if not equals or not key.strip().isidentifier():
            raise InvalidInput(f"{text!r}: expected key=value after the colon, got {piece!r}")
        if key.strip() in arguments:
            raise InvalidInput(f"{text!r}: {key.strip()} is given twice")
        arguments[key.strip()] = parse_value(value.strip())
    if not name.strip():
        raise InvalidInput(f"{text!r}: a name is missing before the colon")
    return Call(name.strip(), arguments)


def parse_value(text: str) -> Any:
    """Read a value as users write it on a command line: int, float, fraction, bool, or the text itself."""
    if text in {"true", "True"}:
        return True
    if text in {"false", "False"}:
        return False
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    try:
        return float(Fraction(text))
    except (ValueError, ArithmeticError):
        return text


def names_code(text: str) -> bool:
    """Whether a text is the place of a function, `module:callable`, which only its import would find."""
    return re.fullmatch(r"\w+(\.\w+)*:\w+", text) is not None


def code_of_attack(text: str) -> str:
    """What an attack's arguments name as `module:callable`, the loss first; empty where they name nothing like it."""
    found = dict(piece.partition("=")[::2] for piece in text.partition(":")[2].split(",") if ":" in piece)
    places = {key.strip(): place.strip() for key, place in found.items()}
    others = [place for place in places.values() if place.partition(":")[0] not in MODEL_SOURCES]
    return places.get("loss") or next(iter(others), "")


def import_callable(kind: str, spec: str) -> Any:
    """Import what `module:callable` names, from the working directory too; raises InvalidInput and UnknownName.

    `kind` is the word for it in messages.
    """
    module_name, _, name = spec.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)  # a script's own folder is not on the path of a console command
    try:
        module = importlib.import_module(module_name)
    except FAILURES as error:
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput(f"{kind} {spec!r}: {module_name} cannot be imported: {reason}") from error
    finally:
        sys.path.remove(here)
    function = getattr(module, name, None)
    if not callable(function):
        raise UnknownName(f"callable of module {module_name}:", name, [key for key in vars(module) if key[0] != "_"])
    return function


def _modules(package: str) -> Iterator[tuple[Path, str]]:
    """Files of a module or package, with their import names; the package itself is not imported."""
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        spec = None
    except FAILURES as error:  # a name with a dot: what is before it is imported
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput(f"the installed plug-in {package} cannot be imported: {reason}") from error
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        if spec.origin:
            yield Path(spec.origin).resolve(), package
        return
    for folder in spec.submodule_search_locations:
        for path in sorted(Path(folder).glob("*.py")):
            yield path.resolve(), package if path.stem == "__init__" else f"{package}.{path.stem}"


def _read(path: Path, module: str, decorator: str) -> Iterator[Entry]:
    """Registrations in one source file."""
    stamp = path.stat()
    for name, details in _registrations(path, decorator, stamp.st_mtime_ns, stamp.st_size):
        yield Entry(name, path, module, details)


@cache
def _registrations(path: Path, decorator: str, _modified: int, _size: int) -> list[tuple[str, dict[str, Any]]]:
    """Names and keyword arguments in a source file; names that stand for module-level literals are looked up."""
    if _size > MAX_SOURCE_BYTES:
        raise InvalidInput(f"{path}: larger than the {MAX_SOURCE_BYTES} bytes allowed for a plug-in")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: it is nested too deeply
        raise InvalidInput(f"{path}: cannot be read as Python: {error}") from None
    if decorator not in {getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(tree)}:
        return []
    constants: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
            if isinstance(target, ast.Name):
                constants[target.id] = _literal(statement.value, constants)
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        if getattr(node.func, "id", getattr(node.func, "attr", None)) == decorator:
            name = _literal(node.args[0], constants)
            if isinstance(name, str):
                details = {word.arg: _literal(word.value, constants) for word in node.keywords if word.arg}
                found.append((name, details))
    return found


def _literal(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return constants.get(node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return None


def _import(entry: Entry) -> None:
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


methods: Registry[Any] = Registry("method", decorator="register_method", group="fairbench.methods")
policies: Registry[Any] = Registry("class policy", decorator="register_policy", group="fairbench.methods")
datasets: Registry[Any] = Registry(
    "data set", decorator="register_dataset", group="fairbench.datasets", home="fairbench.data"
)
models: Registry[Any] = Registry("model", decorator="register_model", group="fairbench.models", home="fairbench.models")
attacks: Registry[Any] = Registry(
    "attack", decorator="register_attack", group="fairbench.attacks", home="fairbench.attacks"
)
losses: Registry[Any] = Registry("loss", decorator="register_loss", group="fairbench.attacks", home="fairbench.attacks")

register_dataset = datasets.decorate
register_model = models.decorate
register_attack = attacks.decorate
register_loss = losses.decorate
register_policy = policies.decorate


def register_method(name: str, **details: Any) -> Callable[[C], C]:
    """Register a Method class under `name`, or, with `base=`, a named composition of a base and class policies.

    Keyword arguments: `summary`, `citation`, `provenance` ("code", "paper", "reconstruction", "ablation"); for a
    composition `base`, `policies` (names) and `options` (hyper-parameters that differ from the parts' defaults). All
    literals.
    """
    if "base" in details:
        _register_composition(name, details)
    return methods.decorate(name, **details)


def _register_composition(name: str, details: Mapping[str, Any]) -> None:
    """Register base and policies under one name; their classes are looked up when the method is built."""
    methods.register(name, None, details)


def _registering_file() -> str:
    """The file whose code registers a name: the nearest caller outside this module."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals is globals():
        frame = frame.f_back
    return str(frame.f_globals.get("__file__", "<interactive>"))
