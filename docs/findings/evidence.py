"""What the boards say of pairs of methods: differences over seeds with intervals, corrected within each table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairbench import load_leaderboard
from fairbench.leaderboard.detection import spread_of
from fairbench.leaderboard.lookup import versions_of
from fairbench.leaderboard.unrounded import unrounded
from fairbench.statistics.moderated import moderated_test
from fairbench.statistics.significance import MIN_SEEDS, holm

__all__ = ["Answer", "Board", "Pair", "boards_of", "newest_with", "pair_table", "table"]

ALPHA = 0.05
FIGURES = {"average": 100, "worst": 100, "nsd": 1}

Pair = tuple[str, str]


@dataclass(frozen=True)
class Answer:
    """The answer to one question: what is said first, how well it is supported, and the tables."""

    said: str
    status: str
    tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Board:
    """One committed board and its runs, with figures restored to whole images."""

    path: Path

    @cached_property
    def rows(self) -> pd.DataFrame:
        """All rows as they are committed."""
        return load_leaderboard(self.path)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The rows of single runs' best checkpoints, unrounded."""
        best = self.rows[self.rows["checkpoint"] == "best"]
        return unrounded(best[best["seed"].str.isdecimal()])

    @property
    def label(self) -> str:
        """Suite and version, as `digits v3`."""
        return f"{self.path.parent.name} {self.path.stem}"

    @property
    def methods(self) -> set[str]:
        """The methods that have a row."""
        return set(self.runs["method"])

    @property
    def attacks(self) -> list[str]:
        """The attacks in the order of the file."""
        return list(dict.fromkeys(self.runs["attack"]))

    @property
    def settings(self) -> str:
        """Where the settings of the board's methods are from."""
        if "tuning" not in self.runs or self.runs["tuning"].isna().all():
            return "untuned: one recipe for all methods"
        return "tuned with equal budgets" if (self.runs["tuning"] != "untuned").all() else "tuned in part"

    def of(self, method: str, attack: str, figure: str) -> NDArray[np.float64]:
        """A figure of a method over its seeds, float64 [S], in the order of the seeds."""
        rows = self.runs[(self.runs["method"] == method) & (self.runs["attack"] == attack)]
        return rows.sort_values("seed", key=lambda seeds: seeds.astype(int))[figure].to_numpy(np.float64)

    def under(self, attack: str) -> pd.DataFrame:
        """The rows under one attack."""
        return self.runs[self.runs["attack"] == attack]


def boards_of(root: Path, suite: str) -> list[Board]:
    """Return the boards of a suite below `root`, the newest version first; none where there is none."""
    return [Board(path) for path in versions_of(root / "leaderboards" / suite)]


def newest_with(root: Path, suites: Iterable[str], pairs: Sequence[Pair]) -> list[tuple[Board, list[Pair]]]:
    """Return for each suite the newest board that has a pair, with the pairs that it has."""
    found = []
    for suite in suites:
        for board in boards_of(root, suite):
            held = [pair for pair in pairs if set(pair) <= board.methods]
            if held:
                found.append((board, held))
                break
    return found


@dataclass(frozen=True)
class Difference:
    """Method minus base, in the figure's own unit, with its 95 % interval; `p` after correction, nan untested."""

    value: float
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan

    def cell(self, scale: int) -> str:
        """The difference with its interval, bold where the corrected test is significant."""
        digits = 1 if scale > 1 else 2
        value, low, high = (
            f"{round(scale * one, digits) + 0.0:+.{digits}f}" for one in (self.value, self.low, self.high)
        )
        if np.isnan(self.low):
            return value
        text = f"{value} [{low}, {high}]"
        return f"**{text}**" if self.p <= ALPHA else text


def differences(
    board: Board, pairs: Sequence[Pair], attacks: Sequence[str], figures: Sequence[str]
) -> dict[tuple[Pair, str, str], Difference]:
    """Return every difference of means over seeds; tested where both methods have three, Holm over all of them."""
    found: dict[tuple[Pair, str, str], Difference] = {}
    raw: dict[tuple[Pair, str, str], float] = {}
    for attack in attacks:
        under = board.under(attack)
        for figure in figures:
            spread = spread_of(under, figure)
            for pair in pairs:
                ours, theirs = (board.of(method, attack, figure) for method in pair)
                if not len(ours) or not len(theirs):
                    continue
                key = (pair, attack, figure)
                found[key] = Difference(float(ours.mean() - theirs.mean()))
                if min(len(ours), len(theirs)) >= MIN_SEEDS and np.isfinite([*ours, *theirs]).all():
                    test = moderated_test(ours, theirs, spread, one_of_many=True)
                    found[key] = Difference(found[key].value, test.low, test.high)
                    raw[key] = test.p
    for key, p in zip(raw, holm([*raw.values()]) if raw else (), strict=True):
        found[key] = Difference(found[key].value, found[key].low, found[key].high, float(p))
    return found


def pair_table(
    board: Board, pairs: Sequence[Pair], attacks: Sequence[str] = ("pgd-20", "union")
) -> tuple[str, list[str]]:
    """Return the table of the pairs' differences on a board, and a phrase for each that is significant."""
    attacks = [attack for attack in attacks if attack in board.attacks]
    found = differences(board, pairs, attacks, [*FIGURES])
    heads = [f"{figure}, {attack}" for attack in attacks for figure in FIGURES]
    rows, firm = [], []
    for pair in pairs:
        cells = []
        for attack in attacks:
            for figure, scale in FIGURES.items():
                one = found.get((pair, attack, figure))
                cells.append("" if one is None else one.cell(scale))
                if one is not None and one.p <= ALPHA:
                    way = "higher" if one.value > 0 else "lower"
                    firm.append(f"{figure} of {pair[0]} {way} than of {pair[1]} under {attack}")
        rows.append([f"{pair[0]} - {pair[1]}", *cells])
    seeds = sorted({len(board.of(method, attacks[0], "worst")) for pair in pairs for method in pair})
    counted = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    tested = sum(not np.isnan(one.p) for one in found.values())
    head = f"{board.label} ({board.settings}), {counted} seed{'s' if counted != '1' else ''}, {tested} tests:"
    return f"{head}\n\n{table(['method - base', *heads], rows)}", firm


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are numbers."""
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
