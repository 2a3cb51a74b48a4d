"""Boards of runs with changed settings (`--set`): how they are named, and the settings that their commands changed."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["changed_key", "changed_settings", "has_changed_settings", "why_unranked"]

_MARK = ".custom-"


def changed_key(version: int | str, changes: str) -> str:
    """Return what stands for a suite's version in records and names of boards where settings with this hash changed."""
    return f"{version}{_MARK}{changes}"


def has_changed_settings(name: str) -> bool:
    """Whether a board of this name has runs with changed settings, which are never ranked."""
    return _MARK in name


def changed_settings(commands: Iterable[str]) -> list[str]:
    """Return the settings that `fairbench run` commands change, as `model=resnet-micro`, each once.

    Text that is no command line changes nothing.
    """
    found: dict[str, None] = {}
    for command in dict.fromkeys(commands):
        with suppress(ValueError):
            found |= dict.fromkeys(_changes(shlex.split(command)))
    return list(found)


def why_unranked(board: pd.DataFrame, *, ranked: bool) -> str:
    """Return why the rows of a board are not ranked, or nothing; `ranked` is false for changed settings."""
    reasons = ["quick: a smoke test"] if bool(board["quick"].fillna(False).any()) else []
    if not ranked:
        reasons.append(" ".join(changed_settings(board["command"].dropna())) or "settings of its own")
    return ", ".join([*reasons, "not ranked"]) if reasons else ""


def _changes(words: Sequence[str]) -> Iterator[str]:
    split = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for option, value in pairwise(split):
        if option == "--set":
            yield value
        elif option == "--precision":
            yield f"recipe.precision={value}"
