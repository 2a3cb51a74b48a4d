"""How the values of options are parsed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fairbench.errors import InvalidInput
from fairbench.plugins.calls import parse_value

__all__ = [
    "MAX_SEED",
    "parse_number",
    "parse_settings",
    "require_within",
    "split_integers",
    "split_names",
    "split_numbers",
]

MAX_SEED = 2**63 - 1


def split_names(text: str | None) -> list[str] | None:
    """Split at commas; None stays None. Raises InvalidInput for a text without a name."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InvalidInput(f"expected comma-separated names, got {text!r}")
    return names


def split_integers(text: str | None) -> list[int] | None:
    """Split at commas into integers; raises InvalidInput."""
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInput(f"--seeds: expected comma-separated integers, got {text!r:.80}") from None


def parse_number(option: str, text: str) -> float:
    """Read a number or a fraction such as 8/255; raises InvalidInput."""
    value = parse_value(text)
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (ValueError, OverflowError):  # not a number, or too large for a float
        raise InvalidInput(f"{option}: expected a number or a fraction, got {text!r:.80}") from None


def require_within(option: str, value: int, low: int, high: int) -> None:
    """Raise InvalidInput for a number outside a range that is too wide for a help page."""
    if not low <= value <= high:
        raise InvalidInput(f"{option}: {value!s:.40} is not between {low} and {high}")


def split_numbers(option: str, text: str | None) -> list[float] | None:
    """Split at commas into numbers or fractions; raises InvalidInput."""
    return None if text is None else [parse_number(option, part.strip()) for part in text.split(",")]


def parse_settings(texts: Iterable[str] | None) -> dict[str, Any]:
    """Read texts KEY=VALUE, the values as int, float, bool or text; raises InvalidInput, also for a repeated key."""
    found: dict[str, Any] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InvalidInput(f"--set: expected KEY=VALUE, got {text!r}")
        if key in found:
            raise InvalidInput(f"--set: {key} is given twice")
        found[key] = parse_value(value)
    return found
