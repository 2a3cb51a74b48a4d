"""Write what a board shows: `python docs/claims.py leaderboards/digits/v4.csv --write docs/digits.md`.

Each method stands against the one that its paper improves on. Every difference of the seeds' means is tested with a
variance that the whole board informs, and Holm's correction is over all tests of the table. Every sentence is derived
from a test; none is written by hand. With `--ablations BOARD` the variants of ABSLD are compared in the same way. The
command prints Markdown, or puts each part between its marks in the document after `--write`. Tests are under the
attacks after `--attacks`, and the table of methods is under the last of them. A board whose methods have fewer than
three seeds has no tests, and its document no such part.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fairbench import load_leaderboard
from fairbench.leaderboard.detectable import ALPHA
from fairbench.leaderboard.differences import Difference, pairs_by_seeds
from fairbench.leaderboard.unrounded import unrounded
from fairbench.report.text.board import show_board

Pair = tuple[str, str]
FAIRNESS: tuple[Pair, ...] = (  # a paper says of each that its worst class is more robust than its base's
    ("absld", "rslad"),
    ("absld_released", "rslad"),
    ("fair_ard", "ard"),
    ("fair_iad", "iad"),
    ("fair_rslad", "rslad"),
    ("fair_mtard", "mtard"),
    ("frl_reweight", "trades_finetuned"),
    ("frl_remargin", "trades_finetuned"),
    ("frl", "trades_finetuned"),
    ("frl", "sat"),
    ("dafa", "trades"),
    ("wat", "trades"),
    ("cfa_trades", "trades"),
    ("cfa_sat", "sat"),
    ("faal", "sat"),
    ("faal_trades", "trades"),
    ("bat", "trades"),
    ("trix", "trades"),
    ("fair_tat", "sat"),
    ("fairat", "sat"),
    ("ham", "sat"),
    ("cfol", "sat"),
    ("csr", "trades"),
    ("sy_far", "sat"),
    ("codat", "sat"),
)
OTHERS: tuple[Pair, ...] = (("absld", "sat"), ("rslad", "sat"), ("sat_awp", "sat"), ("trades_awp", "trades"))
ADAPTIVE: tuple[Pair, ...] = tuple(
    ("absld", variant)
    for variant in (
        "rslad",
        "absld_random",
        "absld_uniform",
        "absld_manual",
        "absld_reversed",
        "absld_one_set",
        "absld_released",
        "absld_adv_only",
        "absld_clean_only",
        "absld_kl_risk",
    )
)
TEACHERLESS: tuple[Pair, ...] = (("absld_self", "rslad_self"), ("class_label_smoothing", "label_smoothing"))
LABEL_AND_SAMPLE: tuple[Pair, ...] = tuple(
    (f"rslad+absld_temperatures+{policy}", "absld")
    for policy in ("fair_ard_weights", "frl_weights", "wat_weights", "cfa_margins", "dafa_margins")
)
FIGURES = {"average": 100, "worst": 100, "nsd": 1}
NAMES = {"average": "average robust accuracy", "worst": "worst class", "nsd": "NSD"}
ATTACKS = ("pgd-20", "union")
MARK = "<!-- {} {} -->"

Key = tuple[str, str, str, str]
Tests = dict[Key, Difference]


def compared(board: pd.DataFrame, pairs: Sequence[Pair], attacks: Sequence[str] = ATTACKS) -> Tests:
    """Test every figure of every pair whose methods are on the board with three seeds, with Holm's correction."""
    rows = board[(board["checkpoint"] == "best") & board["seed"].str.isdecimal() & board["attack"].isin(attacks)]
    found = pairs_by_seeds(unrounded(rows), pairs, list(FIGURES))
    return {key: one for key, one in found.items() if not math.isnan(one.raw)}


def table(
    tests: Tests, pairs: Sequence[Pair], attacks: Sequence[str] = ATTACKS, *, intervals: bool = False
) -> list[str]:
    """A row for each pair that was tested; cells show the p-value alone, or the interval."""
    heads = [f"{figure}, {attack}" for attack in attacks for figure in FIGURES]
    lines = [f"| method - base | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for method, base in pairs:
        own = [tests.get((method, base, figure, attack)) for attack in attacks for figure in FIGURES]
        if any(own):
            scales = [*FIGURES.values()] * len(attacks)
            cells = [_cell(test, scale, intervals) for test, scale in zip(own, scales, strict=True)]
            lines.append(f"| {method} - {base} | {' | '.join(cells)} |")
    return lines


def report(tests: Tests, attacks: Sequence[str] = ATTACKS) -> str:
    """Return the table of all differences, what papers claim beside it, and every significant difference."""
    lines = [*table(tests, (*FAIRNESS, *OTHERS), attacks), "", _counted(tests)]
    lines += ["", "**Is the worst class more robust than the base's, as the paper says?**", ""]
    verdicts: dict[str, list[str]] = {}
    for method, base in FAIRNESS:
        own = [tests.get((method, base, "worst", attack)) for attack in attacks]
        if all(own):
            verdicts.setdefault(_verdict([test for test in own if test]), []).append(f"{method} ({base})")
    lines += [f"- {verdict}: {', '.join(names)}." for verdict, names in sorted(verdicts.items())] or ["- none tested"]
    lines += ["", "**Differences that are significant after correction**, on these images:", ""]
    lines += [f"- {_sentence(key, test)}" for key, test in tests.items() if test.winner] or ["- none"]
    return "\n".join(lines)


def ablations(board: pd.DataFrame) -> str:
    """Return the table of ABSLD's variants with intervals, and every significant difference."""
    groups = {
        "Adaptive temperatures against others": ADAPTIVE,
        "Adaptive temperatures without a teacher": TEACHERLESS,
        "A sample policy added to ABSLD": LABEL_AND_SAMPLE,
    }
    tests = compared(board, [pair for pairs in groups.values() for pair in pairs])
    lines = []
    for title, pairs in groups.items():
        lines += [f"**{title}**", "", *table(tests, pairs, intervals=True), ""]
    lines += [_counted(tests), "", "**Differences that are significant after correction**, on these images:", ""]
    lines += [f"- {_sentence(key, test)}" for key, test in tests.items() if test.winner] or ["- none"]
    return "\n".join(lines)


def written(document: str, parts: dict[str, str]) -> str:
    """Return the document with each part between its marks; raises ValueError where a mark is missing."""
    for name, text in parts.items():
        begin, end = (MARK.format(word, name) for word in ("begin", "end"))
        before, _, rest = document.partition(begin)
        _, mark, after = rest.partition(end)
        if not mark:
            raise ValueError(f"the document has no marks {begin} and {end}")
        document = f"{before}{begin}\n\n{text}\n\n{end}{after}"
    return document


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the parts, or write them into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("board", type=Path)
    parser.add_argument("--attacks", default=",".join(ATTACKS), help="attacks of the tests, by default %(default)s")
    parser.add_argument("--ablations", type=Path, help="the board of digits-ablations")
    parser.add_argument("--write", type=Path, help="the document with the marks")
    given = parser.parse_args(arguments)
    attacks = given.attacks.split(",")
    parts = {
        "board": show_board(given.board, base="sat", attack=attacks[-1], format_="markdown"),
        "cost": show_board(given.board, base="sat", cost=True, format_="markdown"),
    }
    tests = compared(load_leaderboard(given.board), (*FAIRNESS, *OTHERS), attacks)
    if tests:
        parts["claims"] = report(tests, attacks)
    if given.ablations:
        parts["ablations"] = ablations(load_leaderboard(given.ablations))
    if given.write is None:
        print("\n\n".join(parts.values()))
    else:
        given.write.write_text(written(given.write.read_text(encoding="utf-8"), parts), encoding="utf-8")


def _counted(tests: Tests) -> str:
    alone, kept = sum(test.raw <= ALPHA for test in tests.values()), sum(bool(test.winner) for test in tests.values())
    return f"Of {len(tests)} tests {alone} have p <= {ALPHA:g} alone; Holm's correction keeps {kept}, in bold."


def _verdict(tests: Sequence[Difference]) -> str:
    """What the tests of a worst class under each attack say of the claim that it is higher."""
    winners = {test.winner for test in tests}
    if "B" in winners:
        return "contradicted: significantly lower under an attack"
    if "A" in winners:
        return f"supported under {'both' if winners == {'A'} else 'one of the'} attacks"
    return "open: no significant difference"


def _sentence(key: Key, test: Difference) -> str:
    method, base, figure, attack = key
    scale, digits, unit = (100, 1, " points") if FIGURES[figure] > 1 else (1, 2, "")
    size = f"{abs(scale * test.difference):.{digits}f}{unit}"
    way = "higher" if test.difference > 0 else "lower"
    return f"{method}'s {NAMES[figure]} under {attack} is {size} {way} than {base}'s."


def _cell(test: Difference | None, scale: int, intervals: bool) -> str:
    if test is None:
        return ""
    digits = 1 if scale > 1 else 2
    value, low, high = (f"{round(scale * x, digits) + 0.0:+.{digits}f}" for x in (test.difference, test.low, test.high))
    text = f"{value} [{low}, {high}]" if intervals else f"{value} ({test.raw:.3f})"  # + 0.0 makes -0.0 a 0.0
    return f"**{text}**" if test.winner else text


if __name__ == "__main__":
    main()
