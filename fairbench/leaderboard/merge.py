"""Merging of a user's rows with the committed rows of the same protocol and training budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.classes import with_classes
from fairbench.leaderboard.columns import AGGREGATES, ROLES
from fairbench.leaderboard.lookup import committed_folder, versions_of
from fairbench.leaderboard.ranking import budget_of

__all__ = ["COMMITTED", "YOURS", "Merged", "merged", "read_alone"]

YOURS, COMMITTED = "yours", "committed"
SHOWN = 5  # names in a note


@dataclass(frozen=True)
class Merged:
    """A leaderboard, and sentences on the rows that were merged and left out.

    If two leaderboards were merged, `whose` names the origin of a row, and `home` is the path of its leaderboard.
    """

    frame: pd.DataFrame
    notes: tuple[str, ...] = ()


def merged(path: Path) -> Merged:
    """Read a suite's leaderboard and add the committed rows with its protocol and a training budget that occurs on it.

    A method with runs on both leaderboards appears twice, as NAME@yours and as NAME, but once, as committed, if the
    committed one holds all of the user's runs with the same weights. The user's teachers and warm starts are left out
    if the committed leaderboard has its own. Raises Missing and CorruptFile.
    """
    own = read_alone(path).frame
    versions = versions_of(committed_folder() / path.parent.name)
    if any(version.resolve() == path.resolve() for version in versions) or own["quick"].fillna(False).any():
        return Merged(own)
    protocol = str(own["protocol"].iloc[0])
    boards = {version: read_alone(version).frame for version in versions}
    same = [version for version, board in boards.items() if str(board["protocol"].iloc[0]) == protocol]
    if not same:
        return Merged(own, tuple(_other(path, version, boards[version], protocol) for version in versions[:1]))
    return _merge(path, own, same[0], boards[same[0]])


def _merge(path: Path, own: pd.DataFrame, other: Path, board: pd.DataFrame) -> Merged:
    budgets = set(budget_of(own[~own["method"].isin(ROLES)]))
    fits = budget_of(board).isin(budgets) | board["method"].isin(ROLES)
    notes, name = [], f"{other.parent.name}/{other.stem}"
    if not fits[~board["method"].isin(ROLES)].any():
        text = f"The committed board {name} is not merged: its training budget is another. `leaderboard show {name}`"
        return Merged(own, (f"{text} shows it.",))
    if not fits.all():
        left = _names(board[~fits]["method"])
        notes.append(f"Left out of the committed board {name}, because the training budget differs: {left}.")
    board = board[fits]
    known = board[~board["seed"].isin(AGGREGATES)]
    shared = set(zip(known["run_id"], known["weights_hash"], strict=True))
    drop, rename = [], {}
    for method, rows in own[~own["seed"].isin(AGGREGATES)].groupby("method"):
        if set(zip(rows["run_id"], rows["weights_hash"], strict=True)) <= shared or (
            method in ROLES and (known["method"] == method).any()
        ):
            drop.append(str(method))
        elif (known["method"] == method).any():
            rename[str(method)] = f"{method}@{YOURS}"
    kept = own[~own["method"].isin(drop)].copy()
    kept["method"] = kept["method"].replace(rename).astype("string")
    parts = [kept.assign(whose=YOURS, home=str(path)), board.assign(whose=COMMITTED, home=str(other))]
    frame = pd.concat([part for part in parts if len(part)], ignore_index=True)
    ours, theirs = (len(set(part["method"]).difference(ROLES)) for part in parts)
    if kept.empty:
        notes.insert(0, f"The committed board ({other}) has all of your rows: {_names(drop)}. It has {theirs} methods.")
        return Merged(frame, tuple(notes))
    if drop:
        notes.append(f"Left out of your rows, because the committed board has them: {_names(drop)}.")
    notes.insert(0, f"{_counted(ours)} yours ({path}), {theirs} committed ({other}).")
    return Merged(frame, tuple(notes))


def _counted(methods: int) -> str:
    return f"{methods} method is" if methods == 1 else f"{methods} methods are"


def _other(path: Path, version: Path, board: pd.DataFrame, protocol: str) -> str:
    name = f"{version.parent.name}/{version.stem}"
    return (
        f"The committed board {name} is not merged: its protocol is {board['protocol'].iloc[0]}, yours is {protocol}. "
        f"`fairbench leaderboard show {name}` shows it."
    )


def read_alone(path: Path) -> Merged:
    """Read a leaderboard with its classes, without merging; raises Missing and CorruptFile."""
    return Merged(with_classes(path, load_leaderboard(path)))


def _names(methods: Iterable[str]) -> str:
    names: Sequence[str] = list(dict.fromkeys(map(str, methods)))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
