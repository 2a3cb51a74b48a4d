"""Does what papers claim hold on a board? `python docs/claims.py leaderboards/digits/v3.csv` prints it as Markdown.

Each method stands against the one that its paper improves on; differences are means over the seeds in common, p-values
of paired t-tests over these seeds, one by one and two-sided. With many rows some are small by chance.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd

from fairbench import load_leaderboard
from fairbench.statistics.significance import seed_test

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
FIGURES = (("average", 100), ("worst", 100), ("nsd", 1))
ATTACKS = ("pgd-20", "union")


def main(path: str) -> None:
    """Print the table of all claims."""
    board = load_leaderboard(path)
    board = board[(board["checkpoint"] == "best") & board["seed"].str.isdecimal()]
    heads = [f"{figure}, {attack}" for attack in ATTACKS for figure, _ in FIGURES]
    print(f"| method - base | {' | '.join(heads)} |\n| --- |{' ---: |' * len(heads)}")
    for method, base in CLAIMS:
        cells = [_cell(board, method, base, attack, *figure) for attack in ATTACKS for figure in FIGURES]
        print(f"| {method} - {base} | {' | '.join(cells)} |")


def _cell(board: pd.DataFrame, method: str, base: str, attack: str, figure: str, scale: int) -> str:
    ours, theirs = (_over_seeds(board, name, attack, figure) for name in (method, base))
    difference = scale * float(np.mean(ours - theirs))
    return f"{difference:+.{1 if scale > 1 else 2}f} ({float(seed_test(ours, theirs)):.2f})"


def _over_seeds(board: pd.DataFrame, method: str, attack: str, figure: str) -> np.ndarray:
    rows = board[(board["method"] == method) & (board["attack"] == attack)]
    return rows.sort_values("seed")[figure].to_numpy(float)


if __name__ == "__main__":
    main(sys.argv[1])
