"""What the boards say of pairs of methods: differences over seeds with intervals, corrected within each table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairbench import load_leaderboard
from fairbench.leaderboard.classes import with_classes
from fairbench.leaderboard.differences import Difference, pairs_by_seeds
from fairbench.leaderboard.lookup import versions_of
from fairbench.leaderboard.ranking import attack_on_all_images
from fairbench.leaderboard.unrounded import unrounded

__all__ = [
    "Answer",
    "Board",
    "Pair",
    "altered",
    "boards_of",
    "cell",
    "differences",
    "newest_with",
    "pair_table",
    "signed",
    "table",
]

FIGURES = {"average": 100, "worst": 100, "nsd": 1}
NAMES = {"average": "average", "worst": "worst class", "nsd": "NSD"}

Pair = tuple[str, str]
Differences = dict[tuple[str, str, str, str], Difference]


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
        """All rows as they are committed, with the accuracies of all classes."""
        return with_classes(self.path, load_leaderboard(self.path))

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

    @cached_property
    def strongest(self) -> str:
        """The union, or where it covers a part of the test images the strongest attack on all of them."""
        return attack_on_all_images(self.rows) or ("union" if "union" in self.attacks else self.attacks[-1])

    @property
    def compared(self) -> list[str]:
        """The attacks under which methods are compared: PGD-20 and the strongest."""
        return [attack for attack in dict.fromkeys(("pgd-20", self.strongest)) if attack in self.attacks]

    @property
    def settings(self) -> str:
        """Where the settings of the board's methods are from."""
        if "tuning" not in self.runs or self.runs["tuning"].isna().all():
            return "untuned: one recipe for all methods"
        if (self.runs["tuning"] == "untuned").any():
            return "tuned in part"
        inherited = (self.runs["tuning"] == "inherited").any()
        return "variants have the settings of the tuned method" if inherited else "tuned with equal budgets"

    def of(self, method: str, attack: str, figure: str) -> NDArray[np.float64]:
        """A figure of a method over its seeds, float64 [S], in the order of the seeds."""
        rows = self.runs[(self.runs["method"] == method) & (self.runs["attack"] == attack)]
        return rows.sort_values("seed", key=lambda seeds: seeds.astype(int))[figure].to_numpy(np.float64)

    def weights(self, pair: Pair) -> set[str]:
        """The hashes of the checkpoints of two methods: two boards may hold the same ones."""
        return set(self.runs.loc[self.runs["method"].isin(pair), "weights_hash"])

    def under(self, attack: str) -> pd.DataFrame:
        """The rows under one attack."""
        return self.runs[self.runs["attack"] == attack]


def boards_of(root: Path, suite: str) -> list[Board]:
    """Return the boards of a suite below `root`, the newest version first; none where there is none."""
    return [_read_once(path, path.stat().st_mtime_ns) for path in versions_of(root / "leaderboards" / suite)]


@cache
def _read_once(path: Path, _changed: int) -> Board:
    """Share a board, whose rows are read when they are asked for, among all questions."""
    return Board(path)


def altered(board: Board) -> list[Board]:
    """Return the boards of the same suite and version with a changed setting (`--set`), which are never ranked."""
    paths = sorted(board.path.parent.glob(f"{board.path.stem}.custom-*.csv"))
    return [Board(path) for path in paths if not path.name.endswith(".classes.csv")]


def newest_with(root: Path, suites: Iterable[str], pairs: Sequence[Pair]) -> list[tuple[Board, list[Pair]]]:
    """Return for each suite the newest board that has a pair, with the pairs that it has.

    A pair whose networks stand on an earlier board too is left out: the same networks are no further evidence.
    """
    found, shown = [], defaultdict[Pair, set[str]](set)
    for suite in suites:
        boards = (board for board in boards_of(root, suite) if any(set(pair) <= board.methods for pair in pairs))
        board = next(boards, None)
        if board is None:
            continue
        held = [pair for pair in pairs if set(pair) <= board.methods and not board.weights(pair) <= shown[pair]]
        for pair in held:
            shown[pair] |= board.weights(pair)
        if held:
            found.append((board, held))
    return found


def differences(board: Board, pairs: Sequence[Pair], attacks: Sequence[str], figures: Sequence[str]) -> Differences:
    """Return every difference of means over seeds; tested where both methods have three, Holm over all of them."""
    return pairs_by_seeds(board.runs[board.runs["attack"].isin(list(attacks))], pairs, figures)


def cell(one: Difference, scale: int) -> str:
    """The difference with its interval, bold where the corrected test is significant."""
    value, low, high = (signed(number, scale) for number in (one.difference, one.low, one.high))
    if np.isnan(one.low):
        return value
    text = f"{value} [{low}, {high}]"
    return f"**{text}**" if one.winner else text


def signed(number: float, scale: int = 100) -> str:
    """A difference with its sign: points with one decimal, or for a scale of 1 the number with two."""
    digits = 1 if scale > 1 else 2
    return f"{round(scale * number, digits) + 0.0:+.{digits}f}"  # + 0.0 makes -0.0 a 0.0


def pair_table(board: Board, pairs: Sequence[Pair]) -> tuple[str, dict[str, list[str]]]:
    """Return the table of the pairs' differences on a board, and what is significant in it with its attacks."""
    attacks = board.compared
    found = differences(board, pairs, attacks, [*FIGURES])
    heads = [f"{figure}, {attack}" for attack in attacks for figure in FIGURES]
    rows, firm = [], defaultdict[str, list[str]](list)
    for pair in pairs:
        cells = []
        for attack in attacks:
            for figure, scale in FIGURES.items():
                one = found.get((*pair, figure, attack))
                cells.append("" if one is None else cell(one, scale))
                if one is not None and one.winner:
                    way = "higher" if one.difference > 0 else "lower"
                    firm[f"{pair[0]} has a {way} {NAMES[figure]} than {pair[1]}"].append(attack)
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
