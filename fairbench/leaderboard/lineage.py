"""The origin of a leaderboard's row, and the command that reproduces it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fairbench.errors import UNPRINTABLE, CorruptFile, InvalidInput, Missing, UnknownName
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.columns import AGGREGATES, ROLES
from fairbench.results.folder import RunFolder
from fairbench.suites.suite import SECTIONS

__all__ = ["find_row", "find_rows", "lineage", "only", "render_lineage", "repeat", "reproduce", "run_folder"]

PARTS = ("method", "seed", "checkpoint", "attack")
ON_A_LINE = UNPRINTABLE | {ord("\n"): "\\n", ord("\t"): "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}
# The form of a commit and of a version in a printed command.
COMMIT = re.compile(r"[0-9a-f]{4,64}")
VERSION = re.compile(r"[0-9]+(\.[0-9a-z]+)*(\+[0-9a-z.]+)?")
DEFAULTS = {"checkpoint": "best", "attack": "union"}
FIGURES = ("average", "average_lo", "average_hi", "worst", "worst_lo", "worst_hi", "worst_class", "nsd", "n")
IDENTITY = ("suite", "protocol", "method", "seed", "checkpoint", "selection", "attack", "run_id", "flags")
ORIGIN = ("created", "commit", "dirty", "packages", "device", "precision", "threads")
HASHES = ("config_hash", "recipe_hash", "data_hash", "split_hash", "weights_hash")
# Options of a command that do not affect a run's result, and whether a value follows.
BESIDE = {"--methods": True, "--seeds": True, "--jobs": True, "--out": True, "--launcher": True, "--address": True}
BESIDE |= {"--publish": False, "--debug": False, "--json": False}


def find_row(row: str, boards: list[Path]) -> tuple[Path, pd.Series[Any]]:
    """Return the only leaderboard that has a row, and the row; raises what `find_rows` raises.

    Raises InvalidInput for a row on the leaderboards of several suites.
    """
    return only(row, find_rows(row, boards))


def only(row: str, found: Sequence[tuple[Path, pd.Series[Any]]]) -> tuple[Path, pd.Series[Any]]:
    """Return the only one of the leaderboards that `find_rows` found; raises InvalidInput for several."""
    if len(found) > 1:
        named = " or ".join(f"--board {shlex.quote(path.parent.name)}" for path, _ in found)
        raise InvalidInput(f"row {row}: several boards have it; name one with {named}")
    return found[0]


def find_rows(row: str, boards: list[Path]) -> list[tuple[Path, pd.Series[Any]]]:
    """Return the leaderboards that have a row, and the row: a run id, or METHOD/SEED[/CHECKPOINT[/ATTACK]].

    A run id, or a text without checkpoint or attack, means the best checkpoint under the union of attacks. Of a suite's
    leaderboards the newest with this row is used. Raises Missing without a leaderboard, InvalidInput for a method
    without a seed, and UnknownName for a row that none has.
    """
    if not boards:
        raise Missing("there is no leaderboard here; `fairbench run SUITE` makes one")
    wanted = dict(zip(PARTS, row.split("/", 3), strict=False)) if "/" in row else {"run_id": row}
    names, wanted = list(wanted), DEFAULTS | wanted
    found: dict[Path, tuple[Path, pd.Series[Any]]] = {}
    known: list[str] = []
    methods: set[str] = set()
    for path in sorted(boards, key=_age):
        board = load_leaderboard(path)
        rows = board[~board["seed"].isin(AGGREGATES)]
        known += ["/".join(line) for line in rows[names].drop_duplicates().to_numpy(dtype=str)]
        methods |= set(rows["method"])
        for name, value in wanted.items():
            rows = rows[rows[name] == value]
        if len(rows):
            found.setdefault(path.parent, (path, rows.iloc[0]))
    if not found and row in methods:
        raise InvalidInput(f"{row} is a method: name one of its runs by a seed, as in `fairbench show {row}/0`")
    if not found:
        raise UnknownName("row", row, sorted(set(known)))
    return list(found.values())


def run_folder(board: Path, row: Mapping[str, Any] | pd.Series[Any]) -> RunFolder:
    """Return the folder of a row's run in the `results` beside the `leaderboards` of its board; it need not exist.

    Raises CorruptFile for a row whose names lead elsewhere.
    """
    parts = [str(row[name]) for name in ("suite", "method", "run_id")]
    if any(Path(part).name != part for part in parts):
        raise CorruptFile(f"{board}: {'/'.join(parts)} names no run folder")
    return RunFolder((board.resolve().parent.parent.parent / "results").joinpath(*parts))


def lineage(path: Path, row: pd.Series[Any]) -> dict[str, dict[str, Any]]:
    """Return the origin of a row in sections of plain values, with those of its run folder if it exists."""
    plain = {str(name): None if pd.isna(value) else value for name, value in row.items()}
    folder = run_folder(path, plain)
    record = folder.read()
    origin = {name: plain[name] for name in ORIGIN}
    origin |= {"processor": (record.get("provenance") or {}).get("processor", "")} if record else {}
    return {
        "row": {"board": str(path)} | {name: plain[name] for name in IDENTITY},
        "figures": {name: plain[name] for name in FIGURES},
        "origin": origin,
        "hashes": {name: plain[name] for name in HASHES},
        "files": {"folder": str(folder.path) if record else None},
        "again": {str(number): command for number, command in enumerate(reproduce(plain), start=1)},
    }


def reproduce(row: dict[str, Any]) -> list[str]:
    """Return the commands that reproduce a row: check out its code, install its torch, and run this run alone.

    The run's own command is narrowed to the row's method and seed; a row of a teacher keeps the methods that needed it.
    The row may come from an untrusted source, and users copy the commands into a shell. Therefore a commit, a version
    or a command that does not have the form that this package writes is left out, and every word is quoted.
    """
    commands = []
    if COMMIT.fullmatch(row["commit"] or ""):
        commands.append(f"git checkout {row['commit']}")
    versions = dict(part.split("=", 1) for part in (row["packages"] or "").split(";") if "=" in part)
    if VERSION.fullmatch(versions.get("torch", "")):
        commands.append(f"pip install torch=={versions['torch']}")
    words = _words(row["command"] or "")
    narrowed = shlex.join([*_narrowed(words, row), *_alone(row, [row["seed"]])]) if words else ""
    return [*commands, narrowed] if narrowed and narrowed.isprintable() else commands


def render_lineage(facts: dict[str, dict[str, Any]]) -> str:
    """Write the sections as text, with the commands last."""
    lines = []
    for section, values in facts.items():
        if section == "again":
            dirty = facts["origin"]["dirty"]
            lines.append("to make it again" + (" (the code had uncommitted changes then)" if dirty else ""))
            lines += [f"  {command}" for command in values.values()] or [
                "  it was made from Python, or its command is not one of fairbench's"
            ]
            continue
        known = {name: value for name, value in values.items() if value is not None}
        lines.append(section)
        lines += [f"  {name:<14}{_shown(value)}" for name, value in known.items()] or ["  not beside this board"]
    return "\n".join(lines)


def _words(command: str) -> list[str]:
    """Return the words of a `fairbench run` command; none for another command, or for one with hidden characters."""
    try:
        words = shlex.split(command)
    except ValueError:  # an unclosed quotation
        return []
    return words if words[:2] == ["fairbench", "run"] and command.isprintable() else []


def repeat(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the commands that run these rows of one method again: those that differ in the seed alone are one.

    They are narrowed as those of `reproduce` are, and left out on the same conditions.
    """
    seeds: dict[tuple[str, ...], dict[Any, Any]] = {}
    for row in rows:
        if words := _words(row["command"] or ""):
            seeds.setdefault(tuple(_narrowed(words, row)), {})[row["seed"]] = row
    commands = [shlex.join([*words, *_alone(next(iter(own.values())), list(own))]) for words, own in seeds.items()]
    return [command for command in commands if command.isprintable()]


def _alone(row: Mapping[str, Any], seeds: Sequence[Any]) -> list[str]:
    """The options that choose these runs of the row's method; none for a teacher, whose command names its methods."""
    chosen = ",".join(map(str, seeds))
    return [] if row["method"] in ROLES else ["--methods", str(row["method"]), "--seeds", chosen]


def _narrowed(words: list[str], row: Mapping[str, Any]) -> list[str]:
    """The words of a command without what other rows need and what does not affect the result."""
    role = row["method"] in ROLES
    kept: list[str] = []
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        takes = name in ("--set", "--plugin") or BESIDE.get(name, False)
        pair = [word, words.pop(0)] if takes and not equals and words else [word]
        beside = name in BESIDE and not (role and name in ("--methods", "--seeds"))
        if not beside and (role or name != "--set" or _concerns(pair[-1] if not equals else value, row)):
            kept += pair
    return kept


def _concerns(setting: str, row: Mapping[str, Any]) -> bool:
    """Whether KEY=VALUE sets a value of the suite or of this row's method, and not of another method."""
    section = setting.partition("=")[0].rpartition(".")[0]
    own = {row["method"], row["base"], *row["method"].split("+"), *(row["policies"] or "").split("+")}
    return section in {"", *SECTIONS} | own


def _age(path: Path) -> tuple[bool, int, str]:
    """Sort key: the newest version first, leaderboards of custom settings last."""
    version = path.stem.removeprefix("v")
    return not version.isdecimal(), -int(version) if version.isdecimal() else 0, str(path)


def _shown(value: Any) -> str:
    """Return a value on one line, because a line break in it could begin a line that looks like a command."""
    text = ", ".join(value.split(";")) if isinstance(value, str) else str(value)
    return text.translate(ON_A_LINE)
