"""Print how the gate's default divides alpha and what it finds, as tables of docs/gate.md: `python gate_default.py`.

Verdicts of ten classes are drawn image by image for a baseline and a candidate, and judged by the tests of
`fairbench check` with its default tolerance: worst class, average and every class, 5 % in all, paired, at most 2
points. Of one class by itself a quarter of the draws. Takes some minutes; `--fast` draws a tenth.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache

import numpy as np
from gate_screens import MAX_DROP, paired, worst_p
from numpy.typing import NDArray

from fairbench.gate import levels

FloatArray = NDArray[np.float64]

SEED = 20242
ALPHA = 0.05
CLASSES = 10
DISCORDANCE = 0.12
TRUTH = np.linspace(0.20, 0.70, CLASSES)
DIVISIONS = {
    "worst alone": (1.0, 0.0, 0.0),
    "Holm over 12": (1 / 12, 1 / 12, 10 / 12),
    "a third each": (1 / 3, 1 / 3, 1 / 3),
    "worst and average half": (0.25, 0.25, 0.5),
    "worst and average a fifth": (0.1, 0.1, 0.8),
}
WORST, MIDDLE, ALL = "the worst class", "one other class", "every class"
DROPS = {50: (0.10, 0.20), 1000: (0.03, 0.05, 0.07, 0.10)}
SIZES = (50, 100, 200, 500, 1000)
FALLS = (0.05, 0.10, 0.20, 0.30, 0.40)
DEFAULT = DIVISIONS["worst and average half"]


def main() -> None:
    """Print every table."""
    draws = 40 if "--fast" in sys.argv[1:] else 1000
    print(
        f"{draws} draws a cell, seed {SEED}, ten classes from 20 % to 70 %, discordance {DISCORDANCE:.0%} unless said "
        f"otherwise, --max-drop {100 * MAX_DROP:g}, alpha {ALPHA:.0%}."
    )
    for title, header, rows in tables(draws):
        print(f"\n{title}:\n")
        for cells in (header, ["---", *["---:"] * (len(header) - 1)], *rows):
            print(f"| {' | '.join(cells)} |")


def tables(draws: int) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield the title, the header and the rows of every table."""
    for images in (1000, 50):
        rows = []
        for who, drop in [(ALL, MAX_DROP), *((who, drop) for drop in DROPS[images] for who in (WORST, MIDDLE))]:
            found = [failures(images, who, drop, draws, division) for division in DIVISIONS.values()]
            name = f"{who} drops by {100 * drop:g} points"
            rows.append([name, *(f"{value:.1%}" for value in found)])
        yield f"How often the gate fails by how alpha is divided, {images} images a class", ["", *DIVISIONS], rows
    for discordance in (DISCORDANCE, 0.25):
        rows = [
            [
                f"{images}",
                *(f"{failures(images, MIDDLE, drop, draws // 4, DEFAULT, discordance):.1%}" for drop in FALLS),
            ]
            for images in SIZES
        ]
        header = ["images a class", *(f"{100 * drop:g} points" for drop in FALLS)]
        yield f"One class of ten drops, discordance {discordance:.0%}: how often the default gate fails", header, rows


def failures(
    images: int,
    who: str,
    drop: float,
    draws: int,
    division: tuple[float, float, float] = DEFAULT,
    discordance: float = DISCORDANCE,
) -> float:
    """Return the share of draws in which the gate fails, alpha divided among worst, average and all classes."""
    shares = np.array([*division[:2], *[division[2] / CLASSES] * CLASSES])
    asked = shares > 0
    drawn = p_values(images, who, drop, draws, discordance)
    return float(np.mean([levels.adjusted(p[asked], shares[asked]).min() <= ALPHA for p in drawn]))


@cache
def p_values(images: int, who: str, drop: float, draws: int, discordance: float) -> FloatArray:
    """Return the p-values of the worst class, the average and each class, float64 [draws, 2 + C]."""
    drops = np.zeros(CLASSES)
    drops[{WORST: slice(0, 1), MIDDLE: slice(5, 6), ALL: slice(None)}[who]] = drop
    changed = np.maximum(discordance, drops)
    rng = np.random.default_rng([SEED, images, len(who), round(1e6 * drop), round(1e6 * discordance)])
    right = rng.binomial(images, TRUTH, (draws, CLASSES))
    lost = rng.binomial(right, (changed + drops) / 2 / TRUTH)
    won = rng.binomial(images - right, (changed - drops) / 2 / (1 - TRUTH))
    found = []
    for old, gone, new in zip(right, lost, won, strict=True):
        each = [paired(int(minus), int(plus), images) for minus, plus in zip(gone, new, strict=True)]
        found.append(
            [worst_p(old, gone, new, images), paired(int(gone.sum()), int(new.sum()), images * CLASSES), *each]
        )
    return np.array(found)


if __name__ == "__main__":
    main()
