"""Print how often the gate is wrong and what it finds, as the Markdown tables of docs/gate.md: `python gate_power.py`.

Verdicts are drawn image by image from known shares and judged by the tests that `fairbench check` uses, at alpha 5 %,
one-sided; of the worst class a quarter of the draws. Takes one to two minutes; `--fast` draws a tenth.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from fairbench.statistics.noninferiority import paired_drop_test, two_sample_drop_test, worst_drop_test
from fairbench.statistics.significance import holm, minimum_detectable_difference, paired_seed_test

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SEED = 20241
ALPHA = 0.05
IMAGES = 1000
SHARE = 0.45
DISCORDANCES = (0.03, 0.07, 0.12, 0.20)
DROPS = (0.0, 0.01, 0.02, 0.03, 0.05)
FAMILIES = (1, 3, 10, 30)
DEVIATIONS = (0.0, 0.005, 0.01, 0.02, 0.045, 0.08)
PROFILES: dict[str, FloatArray] = {
    "one class far below the others": np.array([0.30] + [0.60] * 9),
    "ten equal classes": np.full(10, 0.45),
    "spread evenly from 0.20 to 0.70": np.linspace(0.20, 0.70, 10),
}


def main() -> None:
    """Print every table."""
    draws = 200 if "--fast" in sys.argv[1:] else 2000
    print(f"{draws} draws a cell, seed {SEED}, {IMAGES} images a class, alpha {ALPHA:.0%}.")
    for title, header, rows in tables(draws):
        print(f"\n{title}:\n")
        for cells in (header, ["---", *["---:"] * (len(header) - 1)], *rows):
            print(f"| {' | '.join(cells)} |")


def tables(draws: int) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield the title, the header and the rows of every table."""
    drops = ["no drop", *(f"{100 * drop:g} points" for drop in DROPS[1:])]
    for max_drop in (0.0, 0.02):
        rows = [
            [f"{discordance:.0%}", *(f"{detection(discordance, drop, max_drop, draws):.1%}" for drop in DROPS)]
            for discordance in DISCORDANCES
        ]
        yield f"One class, paired, --max-drop {100 * max_drop:g}: how often it fails", ["discordance", *drops], rows
    rows = [
        [f"{drop}", *(f"{family_detection(family, value, draws):.1%}" for family in FAMILIES)]
        for drop, value in zip(drops, DROPS, strict=True)
    ]
    header = ["one of the family drops by", *(f"family of {family}" for family in FAMILIES)]
    yield "One class of a Holm family, the others unchanged, discordance 7%, --max-drop 0: any failure", header, rows
    rows = [
        [f"{discordance:.0%}", *(f"{100 * smallest(discordance, family):.1f}" for family in FAMILIES)]
        for discordance in DISCORDANCES
    ]
    header = ["discordance", *(f"family of {family}" for family in FAMILIES)]
    yield "Smallest drop in points found with power 80%, --max-drop 0 (computed, not drawn)", header, rows
    rows = [
        [name, *(f"{worst_detection(truth, change, draws // 4):.1%}" for change in ("none", "worst", "another"))]
        for name, truth in PROFILES.items()
    ]
    header = ["ten classes", "no drop", "the worst one drops by 3 points", "another falls 10 below the worst"]
    yield "--metric worst, paired, discordance 7%, --max-drop 0: how often it fails", header, rows
    rows = [
        [drop, f"{detection(0.07, value, 0.0, draws):.1%}", f"{unpaired_detection(value, draws):.1%}"]
        for drop, value in zip(drops, DROPS, strict=True)
    ]
    yield "What pairing is worth: one class, discordance 7%, --max-drop 0", ["drop", "paired", "two-sample"], rows
    settings = [(seeds, drop) for seeds in (1, 3, 5) for drop in (0.0, 0.05)]
    rows = [
        [f"{100 * deviation:g} points", *(f"{seeded(deviation, drop, seeds, draws):.1%}" for seeds, drop in settings)]
        for deviation in DEVIATIONS
    ]
    header = ["std over seeds", *(f"{seeds} seed{'s'[: seeds > 1]}, drop {100 * drop:g}" for seeds, drop in settings)]
    yield (
        "Both sides trained anew, --max-drop 2: unit checkpoint with one seed, unit method with more",
        header,
        rows,
    )


def draw(discordance: float, drop: float, shape: int | tuple[int, ...]) -> tuple[IntArray, IntArray]:
    """Return how many of IMAGES images are lost and won, at least as many changing as the drop needs."""
    changed = max(discordance, drop)
    lost, won = (changed + drop) / 2, (changed - drop) / 2
    found = generator(discordance, drop).multinomial(IMAGES, [lost, won, 1 - lost - won], size=shape)
    return found[..., 0], found[..., 1]


def detection(discordance: float, drop: float, max_drop: float, draws: int) -> float:
    """Return the share of draws in which the paired test of one class rejects."""
    return paired_failures(*draw(discordance, drop, draws), max_drop)


def paired_failures(lost: IntArray, won: IntArray, max_drop: float) -> float:
    """Return the share of outcomes that the paired test rejects: those that lose as many as it takes, or more."""
    return float(np.mean(lost >= [fewest_lost(int(each), max_drop) for each in won]))


@cache
def fewest_lost(won: int, max_drop: float) -> int:
    """Return the fewest lost images with which the paired test rejects."""
    counts = range(IMAGES - won + 1)
    return bisect_left(counts, True, key=lambda lost: paired_drop_test(lost, won, IMAGES, max_drop) <= ALPHA)


@cache
def fewest_before(after: int) -> int:
    """Return the fewest right images before with which the two-sample test rejects."""
    return bisect_left(
        range(IMAGES + 1), True, key=lambda before: two_sample_drop_test(before, IMAGES, after, IMAGES) <= ALPHA
    )


def family_detection(family: int, drop: float, draws: int) -> float:
    """Return the share of draws in which Holm rejects anything of a family of which one class drops."""
    (lost, won), (more_lost, more_won) = draw(0.07, drop, (draws, 1)), draw(0.07, 0.0, (draws, family - 1))
    lost, won = np.hstack([lost, more_lost]), np.hstack([won, more_won])
    p = binom.sf(lost - 1, lost + won, 0.5)  # McNemar's exact test, all at once
    return float(np.mean([holm(one).min() <= ALPHA for one in p]))


def smallest(discordance: float, family: int) -> float:
    """Return the smallest drop that the paired test finds with power 80 %."""
    return minimum_detectable_difference(IMAGES, discordance, alpha=ALPHA, comparisons=family)


def worst_detection(truth: FloatArray, change: str, draws: int) -> float:
    """Return the share of draws in which the test of the worst class rejects; truth are class accuracies [C]."""
    drops, rng = np.zeros(len(truth)), generator(float(truth.sum()), len(change))
    if change == "worst":
        drops[truth.argmin()] = 0.03
    elif change == "another":
        drops[-1] = truth[-1] - truth.min() + 0.10
    changed = np.maximum(0.07, drops)
    p = []
    for _ in range(draws):
        right = rng.binomial(IMAGES, truth)
        lost = rng.binomial(right, (changed + drops) / 2 / truth)
        won = rng.binomial(IMAGES - right, (changed - drops) / 2 / (1 - truth))
        p.append(worst_drop_test(right, right - lost + won, np.full(len(truth), IMAGES), right - lost))
    return float(np.mean(np.array(p) <= ALPHA))


def unpaired_detection(drop: float, draws: int) -> float:
    """Return the share of draws in which the two-sample test rejects, though the images are the same ones."""
    before = generator(drop, 3.0).binomial(IMAGES, SHARE, draws)
    lost, won = draw(0.07, drop, draws)
    return float(np.mean(before >= [fewest_before(int(after)) for after in before - lost + won]))


def seeded(deviation: float, drop: float, seeds: int, draws: int) -> float:
    """Return the share of draws that fail when every checkpoint's true accuracy varies by this much over seeds."""
    rng = generator(deviation, drop + seeds)
    shifts = rng.normal(0, deviation, (2, draws, seeds))
    true_drops = drop + shifts[0] - shifts[1]
    changed = np.maximum(0.07, np.abs(true_drops))
    lost = rng.binomial(IMAGES, (changed + true_drops) / 2)
    won = rng.binomial(IMAGES - lost, (changed - true_drops) / 2 / (1 - (changed + true_drops) / 2))
    if seeds == 1:
        return paired_failures(lost[:, 0], won[:, 0], 0.02)
    drops = (lost - won) / IMAGES
    p = [paired_seed_test(one, np.zeros(seeds), max_drop=0.02, alternative="greater") for one in drops]
    return float(np.mean(np.array(p) <= ALPHA))


def generator(*cell: float) -> np.random.Generator:
    """Return the random numbers of one cell, the same whichever cells are drawn besides."""
    return np.random.default_rng([SEED, *(round(1e6 * value) for value in cell)])


if __name__ == "__main__":
    main()
