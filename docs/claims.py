"""Does what papers claim hold on a board? `python docs/claims.py leaderboards/digits/v3.csv` prints it as Markdown.

Each method stands against the one that its paper improves on. Every difference is tested over the seeds with a variance
that the whole board informs, and Holm's correction is over all tests of the document. `NOTES` are the sentences that a
document may hold, each with the tests that it rests on: a sentence is printed as a finding only if all of these are
significant after correction and have its sign, and as exploratory otherwise. With `--write docs/digits.md` the command
puts the board and these sections between their marks in the document.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fairbench import load_leaderboard
from fairbench.leaderboard.detection import class_ratios, spread_of
from fairbench.leaderboard.unrounded import unrounded
from fairbench.report.text.board import show_board
from fairbench.statistics.moderated import moderated_test
from fairbench.statistics.significance import holm

CLAIMS = (
    ("absld", "rslad"),
    ("absld_released", "rslad"),
    ("absld", "sat"),
    ("rslad", "sat"),
    ("fair_ard", "ard"),
    ("fair_iad", "iad"),
    ("fair_rslad", "rslad"),
    ("fair_mtard", "mtard"),
    ("frl_reweight", "trades_finetuned"),
    ("frl_remargin", "trades_finetuned"),
    ("frl", "trades_finetuned"),
    ("dafa", "trades"),
    ("wat", "trades"),
    ("cfa_trades", "trades"),
    ("cfa_sat", "sat"),
    ("faal", "sat"),
    ("faal_trades", "trades"),
    ("bat", "sat"),
    ("trix", "sat"),
    ("fair_tat", "sat"),
    ("fairat", "sat"),
    ("ham", "sat"),
    ("sat_awp", "sat"),
    ("trades_awp", "trades"),
)
FIGURES = {"average": 100, "worst": 100, "nsd": 1}
ATTACKS = ("pgd-20", "union")
ALPHA = 0.05
MARK = "<!-- {} {} -->"

Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Test:
    """A difference of means over seeds, in the figure's own unit, with its p-value alone and after correction."""

    difference: float
    raw: float
    p: float = 1.0


@dataclass(frozen=True)
class Note:
    """A sentence and what it rests on: method, base, the figures with `+` or `-`, and the attacks."""

    text: str
    method: str
    base: str
    signs: tuple[str, ...]
    attacks: tuple[str, ...] = ATTACKS

    def supported(self, tests: dict[Key, Test]) -> bool:
        """Whether every test that the sentence rests on is significant after correction and has its sign."""
        found = [
            (sign[0], tests[self.method, self.base, sign[1:], attack]) for sign in self.signs for attack in self.attacks
        ]
        return all(one.p <= ALPHA and (one.difference > 0) == (sign == "+") for sign, one in found)


NOTES = (
    Note("ABSLD's average robust accuracy is lower than RSLAD's.", "absld", "rslad", ("-average",)),
    Note("ABSLD's worst class is higher than RSLAD's.", "absld", "rslad", ("+worst",)),
    Note("ABSLD's average is lower than SAT's.", "absld", "sat", ("-average",)),
    Note("RSLAD's average is lower than SAT's under the union.", "rslad", "sat", ("-average",), ("union",)),
    Note("RSLAD's worst class is lower than SAT's under the union.", "rslad", "sat", ("-worst",), ("union",)),
    Note("Fair-ARD's weights raise the worst class of ARD.", "fair_ard", "ard", ("+worst",)),
    Note("Fair-ARD's weights raise the worst class of IAD.", "fair_iad", "iad", ("+worst",)),
    Note(
        "FRL's reweighting raises the worst class under PGD-20.",
        "frl_reweight",
        "trades_finetuned",
        ("+worst",),
        ("pgd-20",),
    ),
    Note(
        "FRL's remargining raises the average under the union.",
        "frl_remargin",
        "trades_finetuned",
        ("+average",),
        ("union",),
    ),
    Note("DAFA raises TRADES' worst class.", "dafa", "trades", ("+worst",)),
    Note("FAAL raises SAT's worst class in one epoch.", "faal", "sat", ("+worst",)),
    Note(
        "FAAL's epoch lowers average and worst class on TRADES, where it starts from SAT's weights.",
        "faal_trades",
        "trades",
        ("-average", "-worst"),
    ),
    Note("TRIX (a reconstruction) raises SAT's worst class.", "trix", "sat", ("+worst",)),
    Note("TRIX (a reconstruction) lowers SAT's average.", "trix", "sat", ("-average",)),
    Note("AWP raises TRADES' worst class under PGD-20.", "trades_awp", "trades", ("+worst",), ("pgd-20",)),
    Note("FairAT (a reconstruction) lowers SAT's worst class.", "fairat", "sat", ("-worst",)),
    Note("HAM's average is lower than SAT's under the union.", "ham", "sat", ("-average",), ("union",)),
    Note(
        "WAT does not work under this recipe: average and worst class are lower than TRADES'.",
        "wat",
        "trades",
        ("-average", "-worst"),
    ),
    Note(
        "CFA on SAT does not work under this recipe: average and worst class are lower than SAT's.",
        "cfa_sat",
        "sat",
        ("-average", "-worst"),
    ),
    Note("CFA on TRADES lowers the average.", "cfa_trades", "trades", ("-average",)),
)


def tested(board: pd.DataFrame) -> dict[Key, Test]:
    """Test every figure of every claim, with Holm's correction over all of them."""
    runs = unrounded(board[(board["checkpoint"] == "best") & board["seed"].str.isdecimal()])
    found = {}
    for attack in ATTACKS:
        under = runs[runs["attack"] == attack]
        ratios = class_ratios(under)
        for figure in FIGURES:
            spread = spread_of(under, figure)
            for method, base in CLAIMS:
                ours, theirs = (
                    under.loc[under["method"] == name, figure].to_numpy(np.float64) for name in (method, base)
                )
                pair = (ratios[method], ratios[base])
                test = moderated_test(ours, theirs, spread, one_of_many=True, ratios=pair)
                found[method, base, figure, attack] = Test(float(ours.mean() - theirs.mean()), test.p)
    adjusted = holm([one.raw for one in found.values()])
    return {key: Test(one.difference, one.raw, float(p)) for (key, one), p in zip(found.items(), adjusted, strict=True)}


def report(tests: dict[Key, Test]) -> str:
    """Return the table of all differences, then the findings, then what is exploratory."""
    heads = [f"{figure}, {attack}" for attack in ATTACKS for figure in FIGURES]
    lines = [f"| method - base | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for method, base in CLAIMS:
        cells = [
            _cell(tests[method, base, figure, attack], scale) for attack in ATTACKS for figure, scale in FIGURES.items()
        ]
        lines.append(f"| {method} - {base} | {' | '.join(cells)} |")
    alone, kept = (
        sum(value <= ALPHA for value in values) for values in zip(*((t.raw, t.p) for t in tests.values()), strict=True)
    )
    lines.append(f"\nOf {len(tests)} tests {alone} have p <= {ALPHA:g} alone; Holm's correction keeps {kept}, in bold.")
    findings = [note.text for note in NOTES if note.supported(tests)]
    others = [note.text for note in NOTES if not note.supported(tests)]
    for title, texts in (
        ("**Findings**, significant after correction over all tests of this page, on these images:", findings),
        ("**Exploratory**, not significant after correction; to be tested by new seeds:", others),
    ):
        lines += ["", title, "", *(f"- {text}" for text in texts or ["none"])]
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


def main(arguments: list[str]) -> None:
    """Print the report, or write it and the board into a document."""
    path = Path(arguments[0])
    text = report(tested(load_leaderboard(path)))
    if arguments[1:2] != ["--write"]:
        print(text)
        return
    target = Path(arguments[2])
    parts = {"board": show_board(path, base="sat", format_="markdown"), "claims": text}
    target.write_text(written(target.read_text(encoding="utf-8"), parts), encoding="utf-8")


def _cell(test: Test, scale: int) -> str:
    digits = 1 if scale > 1 else 2
    text = f"{round(scale * test.difference, digits) + 0.0:+.{digits}f} ({test.raw:.3f})"  # + 0.0 makes -0.0 a 0.0
    return f"**{text}**" if test.p <= ALPHA else text


if __name__ == "__main__":
    main(sys.argv[1:])
