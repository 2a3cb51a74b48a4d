"""The package's errors: one family whose messages name the invalid value and, where possible, a valid one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = [
    "UNPRINTABLE",
    "CorruptFile",
    "Diverged",
    "FairbenchError",
    "Interrupted",
    "InvalidInput",
    "Missing",
    "OtherRankFailed",
    "UnknownName",
    "explain_validation",
    "nearest",
]

# Control characters of terminals, and characters that reverse the direction of text. They are shown as escapes, so that
# untrusted names cannot move the cursor, hide a line or change the window's title.
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
UNPRINTABLE = {code: repr(chr(code))[1:-1] for code in _CONTROLS if chr(code) not in "\n\t"}

LISTED = 40  # known names in a message


class FairbenchError(Exception):
    """An error that ends a command with one line on stderr; `exit_code` is the exit code of the process."""

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(message.translate(UNPRINTABLE))


class InvalidInput(FairbenchError):
    """A value of the wrong type, range or shape."""


class UnknownName(InvalidInput):
    """A name that is not registered; the message suggests the nearest registered one."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}{nearest(name, known)}")


class OtherRankFailed(SystemExit):
    """Ends a rank silently after another rank, which reports its error, has failed; `code` is the exit code."""


class Missing(FairbenchError):
    """A file, dataset or optional package that is not installed; the message says how to get it."""


class CorruptFile(FairbenchError):
    """A file whose content is not of the expected format; `path` is set if the file can be made again."""

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


class Diverged(FairbenchError):
    """A loss, a gradient or a weight became NaN or infinite during training."""


class Interrupted(FairbenchError):
    """The user or the system asked the process to stop; its state was saved."""

    exit_code = 130


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or the list of known names, at most LISTED, if none is similar."""
    known = sorted(set(known))
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return f"; known: {', '.join(known[:LISTED])}{more}" if known else "; none are known"


def explain_validation(error: ValidationError) -> str:
    """Format the first finding of a pydantic error as one line: the field, the problem and the given value."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "value"
    given = "" if first["type"] == "missing" else f", got {first['input']!r:.80}"
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}{given}"
