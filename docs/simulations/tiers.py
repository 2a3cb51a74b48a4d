"""Print how often tiers part methods that are equal, and one that is not: `python docs/simulations/tiers.py`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fairbench.statistics.tiers import tiers

DRAWS, SEED = 400, 20240
SPREADS = {"all 4": lambda m: np.full(m, 4.0), "3 and 6 by turns": lambda m: np.where(np.arange(m) % 2, 3.0, 6.0)}
SPREADS |= {"2 and 8 by turns": lambda m: np.where(np.arange(m) % 2, 2.0, 8.0)}


def parted(rng: np.random.Generator, spread: NDArray[np.float64], seeds: int, gap: float = 0.0) -> float:
    """Share of draws in which the last method is in a lower tier; with no gap, in which any is."""
    means = np.zeros(len(spread))
    means[-1] = -gap
    hits = 0
    for _ in range(DRAWS):
        values = means[:, None] + rng.normal(0, 1, (len(spread), seeds)) * spread[:, None] + rng.normal(0, 2, seeds)
        found = tiers(values)
        hits += (found[-1] if gap else max(found)) > 1
    return hits / DRAWS


def main() -> None:
    """Print false alarms, and the power against one method that is worse."""
    rng = np.random.default_rng(SEED)
    print(f"{DRAWS} draws a cell, seed {SEED}; seeds shift all methods together by 2 points besides\n")
    print("| deviation over seeds, points | methods | seeds | all equal: any parted | one 20 points worse: parted |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, spread in SPREADS.items():
        for methods in (5, 24, 48):
            for seeds in (3, 5):
                false = parted(rng, spread(methods), seeds)
                true = parted(rng, spread(methods), seeds, gap=20.0)
                print(f"| {name} | {methods} | {seeds} | {false:.1%} | {true:.1%} |")


if __name__ == "__main__":
    main()
