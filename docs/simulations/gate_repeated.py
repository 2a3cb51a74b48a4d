"""Print what a gate that runs again and again does, as tables of docs/gate.md: `python gate_repeated.py`.

The default gate (worst class, average and every class of ten, paired, at most 2 points, alpha 5 %) is run as often as
a project runs it: on retrainings of a method that has not changed, and on a method that loses a little every time.
Takes some minutes; `--fast` draws a tenth.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from gate_screens import paired, worst_p
from numpy.typing import NDArray
from scipy.stats import norm

from fairbench.gate import levels
from fairbench.statistics.significance import paired_seed_test

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

SEED = 20243
ALPHA = 0.05
MAX_DROP = 0.02
TRUTH = np.linspace(0.20, 0.70, 10)
METRICS = ("worst", "average", "class")
SHARES = np.array([levels.share(name, METRICS, 10 if name == "class" else 1) for name in (*METRICS, *["class"] * 9)])
CORRELATION = float(np.cos(0.12 * np.pi))  # of an image's margin in two trainings: they differ on 12 % of the images
RETRAININGS = 20
SPREADS = (0.0, 0.02, 0.045, 0.08)
DECLINE = 0.005
RUNS = (1, 5, 10, 20, 40)


def main() -> None:
    """Print every table."""
    draws = 10 if "--fast" in sys.argv[1:] else 300
    print(f"{draws} draws a cell, seed {SEED}, ten classes from 20 % to 70 %, --max-drop 2, alpha {ALPHA:.0%}.")
    for title, header, rows in tables(draws):
        print(f"\n{title}:\n")
        for cells in (header, ["---", *["---:"] * (len(header) - 1)], *rows):
            print(f"| {' | '.join(cells)} |")


def tables(draws: int) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield the title, the header and the rows of every table."""
    rows = [
        [name, *(f"{repeated(drop, runs, draws):.1%}" for runs in (1, RETRAININGS))]
        for name, drop in (("nothing has dropped", 0.0), ("every class has dropped by the 2 points allowed", MAX_DROP))
    ]
    header = ["1000 images a class, no spread over seeds", "alpha 5% in each run", "--runs 20"]
    yield f"Any failure in {RETRAININGS} runs against a pinned baseline", header, rows
    rows = [
        [f"{100 * spread:g} points", *(f"{retrained(images, spread, seeds, draws):.1%}" for images, seeds in SETTINGS)]
        for spread in SPREADS
    ]
    header = ["std of a class over seeds", *(_setting(images, seeds) for images, seeds in SETTINGS)]
    yield "A method trained anew, unchanged: how often one run of the default gate fails", header, rows
    rows = [
        [name, *(f"{value:.0%}" for value in declining(pinned, runs, draws))]
        for name, pinned, runs in (
            ("the last run that passed, alpha 5% in each run", False, 1),
            ("pinned, alpha 5% in each run", True, 1),
            ("pinned, --runs 40", True, max(RUNS)),
        )
    ]
    header = ["baseline", *(f"run {run}: {100 * DECLINE * run:g} points lost" for run in RUNS)]
    yield "Every run loses half a point more in every class, 1000 images a class: failed until then", header, rows


SETTINGS = ((50, 1), (1000, 1), (50, 3), (1000, 3), (1000, 5))


def _setting(images: int, seeds: int) -> str:
    return f"{images} images, " + ("1 seed" if seeds == 1 else f"--unit method, {seeds} seeds")


def repeated(drop: float, runs: int, draws: int, images: int = 1000) -> float:
    """Return the share of draws in which any of RETRAININGS runs fails, alpha divided among `runs`."""
    rng, level = np.random.default_rng([SEED, images, runs, round(1e6 * drop)]), levels.spent(ALPHA, runs)
    failed = 0
    for _ in range(draws):
        margins = rng.standard_normal((len(TRUTH), images))
        before = right(rng, margins, TRUTH)
        after = (right(rng, margins, TRUTH - drop) for _ in range(RETRAININGS))
        failed += any(fails(before, one, level) for one in after)
    return failed / draws


def retrained(images: int, spread: float, seeds: int, draws: int) -> float:
    """Return the share of draws in which one run fails though both sides train the same method with other seeds."""
    rng, failed = np.random.default_rng([SEED, images, seeds, round(1e6 * spread)]), 0
    for _ in range(draws):
        margins = rng.standard_normal((len(TRUTH), images))
        sides = [[right(rng, margins, truth) for truth in trained(rng, spread, seeds)] for _ in range(2)]
        failed += fails(sides[0][0], sides[1][0], ALPHA) if seeds == 1 else fails_over_seeds(*sides)
    return failed / draws


def declining(pinned: bool, runs: int, draws: int) -> list[float]:
    """Return, for each of RUNS, the share of draws in which the gate has failed by then."""
    rng, level = np.random.default_rng([SEED, int(pinned), runs]), levels.spent(ALPHA, runs)
    first = []
    for _ in range(draws):
        margins = rng.standard_normal((len(TRUTH), 1000))
        before = right(rng, margins, TRUTH)
        for run in range(1, max(RUNS) + 1):
            after = right(rng, margins, np.maximum(TRUTH - DECLINE * run, 0))
            if fails(before, after, level):
                first.append(run)
                break
            before = before if pinned else after
    return [float(np.sum(np.array(first) <= run)) / draws for run in RUNS]


def right(rng: np.random.Generator, margins: FloatArray, truth: FloatArray) -> BoolArray:
    """Return which images [C, n] one training is right on: those with a low margin, plus what it makes of chance."""
    own = CORRELATION**0.5 * margins + (1 - CORRELATION) ** 0.5 * rng.standard_normal(margins.shape)
    return np.asarray(own < norm.ppf(truth)[:, None])


def trained(rng: np.random.Generator, spread: float, seeds: int) -> FloatArray:
    """Return true class accuracies [seeds, C] of trainings that differ by their seed."""
    return np.clip(TRUTH + rng.normal(0, spread, (seeds, len(TRUTH))), 0.01, 0.99)


def fails(before: BoolArray, after: BoolArray, level: float) -> bool:
    """Return whether the default gate fails at this alpha."""
    lost, won = (before & ~after).sum(axis=1), (after & ~before).sum(axis=1)
    images = before.shape[1]
    limits = level * SHARES
    if paired(int(lost.sum()), int(won.sum()), before.size) <= limits[1]:
        return True
    if any(paired(int(minus), int(plus), images) <= limits[2] for minus, plus in zip(lost, won, strict=True)):
        return True
    return worst_p(before.sum(axis=1), lost, won, images) <= limits[0]


def fails_over_seeds(before: list[BoolArray], after: list[BoolArray]) -> bool:
    """Return whether the default gate fails with `--unit method`."""
    old, new = (np.array([one.mean(axis=1) for one in side]) for side in (before, after))
    worst, average = (old.min(axis=1), new.min(axis=1)), (old.mean(axis=1), new.mean(axis=1))
    figures = [worst, average, *zip(old.T, new.T, strict=True)]
    p = [paired_seed_test(one, other, max_drop=MAX_DROP, alternative="greater") for one, other in figures]
    return bool(np.any(np.array(p) <= ALPHA * SHARES))


if __name__ == "__main__":
    main()
