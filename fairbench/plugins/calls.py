"""The syntax of names with arguments (`pgd-20:step=0.003`), and of locations of code (`module:callable`)."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from fairbench.errors import InvalidInput, UnknownName
from fairbench.plugins.source import FAILURES

__all__ = [
    "MODEL_SOURCES",
    "Call",
    "code_of_attack",
    "has_module",
    "import_callable",
    "names_code",
    "parse_call",
    "parse_value",
    "split_calls",
]

# Prefixes of models that are opened, where `module:callable` would be imported.
MODEL_SOURCES = ("file", "robustbench", "timm", "torchvision", "pyautoattack")


@dataclass(frozen=True)
class Call:
    """A name with arguments, as in `pgd-20:step=0.003,iterate=last`."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the canonical form, with arguments sorted by name."""
        if not self.arguments:
            return self.name
        return self.name + ":" + ",".join(f"{key}={value}" for key, value in sorted(self.arguments.items()))


def parse_call(text: str) -> Call:
    """Parse `name:key=value,...`; values become int, float or bool, or stay text; `8/255` is a float.

    Raises InvalidInput for an argument without `=`, a key that is no identifier, and a repeated key.
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
    """Parse a value of a command line: int, float, fraction or bool, otherwise the text itself."""
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


def split_calls(text: str) -> list[str]:
    """Split at commas, except those between the arguments of one call: `pgd-20:step=0.01,iterate=last,cw-30`."""
    names: list[str] = []
    for piece in text.split(","):
        if "=" in piece.partition(":")[0] and names:
            names[-1] += f",{piece}"
        else:
            names.append(piece.strip())
    return names


def names_code(text: str) -> bool:
    """Tell whether a text is a location `module:callable`, which only an import can check."""
    return re.fullmatch(r"\w+(\.\w+)*:\w+", text) is not None


def has_module(spec: str) -> bool:
    """Tell whether the top-level package of `module:callable` can be found, also in the working directory."""
    package = spec.partition(":")[0].partition(".")[0]
    if package in sys.modules:
        return True
    here = str(Path.cwd())
    sys.path.insert(0, here)  # as in `import_callable`
    try:
        return importlib.util.find_spec(package) is not None
    finally:
        sys.path.remove(here)


def code_of_attack(text: str) -> str:
    """Return the `module:callable` among an attack's arguments, the loss first; an empty text if there is none."""
    found = dict(piece.partition("=")[::2] for piece in text.partition(":")[2].split(",") if ":" in piece)
    places = {key.strip(): place.strip() for key, place in found.items()}
    others = [place for place in places.values() if place.partition(":")[0] not in MODEL_SOURCES]
    return places.get("loss") or next(iter(others), "")


def import_callable(kind: str, spec: str) -> Any:
    """Import `module:callable`, also from the working directory; raises InvalidInput and UnknownName.

    `kind` is the word for it in messages.
    """
    module_name, _, name = spec.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)  # a console command does not have the working directory on its path
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
