"""Which class is least robust in each published model? `python docs/zoo.py --write docs/zoo.md` writes the page.

A class may be a model's worst if no other class of it is significantly less robust: Fisher's exact test between every
two classes, Holm's correction over all pairs of a model. The model is held fixed; the unit is the image.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact

from fairbench import load_leaderboard
from fairbench.leaderboard.lookup import versions_of
from fairbench.leaderboard.unrounded import unrounded
from fairbench.results.folder import find_runs
from fairbench.statistics.intervals import clopper_pearson
from fairbench.statistics.significance import holm
from fairbench.suites.suite import Suite, load_suite

ROOT = Path(__file__).resolve().parents[1]
SUITES = ("zoo-small", "zoo-small-2px")
ATTACKS = ("cw-30", "union")
ALPHA = 0.05
HEAD = """# Which class is least robust in each published model?

Suites of checkpoints train nothing: `fairbench run` evaluates public networks under a protocol, and the board has a
row for each. The weights are not committed; `--models` names the folder that holds them, and each file is verified by
the hash of its weights. This page is written by `python docs/zoo.py --write docs/zoo.md`.

    mkdir models                                            # the files below, from their sources
    fairbench run zoo-small --models models --publish       # eps 8/255
    fairbench run zoo-small-2px --models models --publish   # eps 2/255
    fairbench run zoo-robustbench --models models           # RobustBench's CIFAR-10 models whose files are there

FGSM, PGD-20 in two step sizes and CW-30 attack the whole test set (`cifar10-exact`, 9,980 images). AutoAttack attacks
the first 50 images of every class, which its cost on the whole test set decided before any figure was seen; the union
is over these 500. Brackets are exact 95 % intervals of the class that is the lowest here, corrected for the number of
classes. *May be the worst* lists every class that no other class is significantly below (Fisher's exact test, Holm over
all pairs of classes of a model).
"""


def worst_set(correct: NDArray[np.int64], counts: NDArray[np.int64]) -> list[int]:
    """Return the classes of which none is significantly less robust; correct and counts int64 [C]."""
    pairs = list(combinations(range(len(correct)), 2))
    tables = [[[correct[c], counts[c] - correct[c]] for c in pair] for pair in pairs]
    adjusted = holm([fisher_exact(table).pvalue for table in tables])
    beaten = {
        max(pair, key=lambda c: correct[c] / counts[c]) for pair, p in zip(pairs, adjusted, strict=True) if p <= ALPHA
    }
    return [number for number in range(len(correct)) if number not in beaten]


def section(root: Path, suite: Suite) -> str:
    """Return the tables of a suite's newest board, or how to make one."""
    boards = versions_of(root / "leaderboards" / suite.name)
    title = f"## {suite.name}: eps {suite.threat.eps * 255:g}/255"
    if not boards:
        return f"{title}\n\nNot measured: no board is committed."
    board = load_leaderboard(boards[0])
    runs = unrounded(board[(board["checkpoint"] == "best") & board["seed"].str.isdecimal()])
    names = _class_names(root, suite.name)
    classes = [f"class_{number}" for number in range(len(names))]
    parts = [title]
    for attack in ATTACKS:
        rows, possible = [], []
        for _, row in runs[runs["attack"] == attack].iterrows():
            counts = row[[f"n_{name}" for name in classes]].to_numpy(dtype=np.float64).astype(np.int64)
            correct = np.rint(row[classes].to_numpy(dtype=np.float64) * counts).astype(np.int64)
            lowest, highest = (int(pick(correct / counts)) for pick in (np.argmin, np.argmax))
            low, high = clopper_pearson(correct[lowest], counts[lowest], ALPHA / len(classes))
            clean = runs[(runs["attack"] == "clean") & (runs["method"] == row["method"])]["average"].iloc[0]
            held = [names[number] for number in worst_set(correct, counts)]
            possible.append(set(held))
            cells = [
                f"{100 * clean:.1f}",
                f"{100 * correct.sum() / counts.sum():.1f}",
                f"{names[lowest]} {100 * correct[lowest] / counts[lowest]:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
                ", ".join(held),
                f"{names[highest]} {100 * correct[highest] / counts[highest]:.1f}",
                str(row["flags"]),
            ]
            rows.append(f"| {row['method']} | {' | '.join(cells)} |")
        heads = ["model", "clean %", "robust %", "lowest class %", "may be the worst", "highest class %", "red flags"]
        images = int(runs.loc[runs["attack"] == attack, "n"].max())
        shared = sorted(set.intersection(*possible)) if possible else []
        said = f"may be the worst of every model: {', '.join(shared)}" if shared else "no class may be the worst of all"
        lines = [f"| {' | '.join(heads)} |", "| --- | ---: | ---: | ---: | --- | ---: | --- |", *rows]
        parts.append(
            f"Under {attack}, {images:,} images, {len(rows)} of {len(suite.checkpoints)} models; {said}.\n\n"
            + "\n".join(lines)
        )
    return "\n\n".join(parts)


def models(suite: Suite) -> str:
    """Return the table of a suite's networks, their sources and licences."""
    lines = ["| model | file | licence | from | sha256 |", "| --- | --- | --- | --- | --- |"]
    for one in suite.checkpoints:
        source = f"{one.source} ({one.citation})"
        lines.append(f"| {one.name} | {' or '.join(one.files)} | {one.license} | {source} | `{str(one.sha256)[:16]}` |")
    return "\n".join(["## The networks", "", *lines])


def page(root: Path) -> str:
    """Return the whole page from the boards below `root`."""
    suites = [load_suite(name) for name in SUITES]
    return "\n\n".join([HEAD.rstrip(), *(section(root, suite) for suite in suites), models(suites[0])]) + "\n"


def _class_names(root: Path, suite: str) -> list[str]:
    """The names of a suite's classes, from the record of any of its runs."""
    return [str(name) for name in find_runs(root / "results", suite)[0][1]["class_names"]]


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="folder with leaderboards and results")
    parser.add_argument("--write", type=Path, help="file to write")
    given = parser.parse_args()
    if given.write is None:
        print(page(given.root), end="")
    else:
        given.write.write_text(page(given.root), encoding="utf-8")


if __name__ == "__main__":
    main()
