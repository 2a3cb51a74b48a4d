"""Print how often `leaderboard compare` errs and what it finds: `python docs/simulations/comparison.py`.

Figures over seeds are normal; a board holds `methods` of them, and the pair that is tested is part of it. The first
table has power, the second false alarms of single pairs where methods differ in spread. About twenty seconds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from fairbench.statistics.moderated import Spread, difference_detectable, pair_variance, typical_variance

FloatArray = NDArray[np.float64]

SEED, DRAWS, ALPHA = 20240, 20_000, 0.05
SPREAD, GAP = 4.5, 10.0
SEEDS = (3, 5)


def rejected(values: FloatArray, first: int, second: int) -> FloatArray:
    """Say of each board, float [B, M, S], whether `moderated_test` tells two of its methods apart at ALPHA."""
    _, methods, seeds = values.shape
    means, variances = values.mean(axis=2), values.var(axis=2, ddof=1)
    typical = typical_variance(variances, np.full(methods, seeds - 1))
    pair = pair_variance(variances[:, first], variances[:, second], typical)
    p = 2 * t.sf(np.abs(means[:, first] - means[:, second]) / np.sqrt(2 * pair / seeds), methods * (seeds - 1))
    found: FloatArray = p <= ALPHA
    return found


def rate(
    rng: np.random.Generator, spreads: FloatArray, seeds: int, pair: tuple[int, int], gap: float, draws: int
) -> float:
    """Return the share of boards on which a pair of methods is told apart, whose true means differ by `gap`."""
    values = rng.standard_normal((draws, len(spreads), seeds)) * spreads[:, None]
    values[:, pair[0]] += gap
    return float(rejected(values, *pair).mean())


def power(draws: int = DRAWS) -> list[tuple[int, int, float, float, float, float]]:
    """Return a row (methods, seeds, false alarms, power at GAP, detectable, power there) per size, spread SPREAD."""
    rng, rows = np.random.default_rng(SEED), []
    for methods in (2, 5, 10, 20, 40):
        for seeds in SEEDS:
            spreads = np.full(methods, SPREAD)
            reach = difference_detectable(Spread(SPREAD**2, methods * (seeds - 1)), seeds)
            found = [rate(rng, spreads, seeds, (0, 1), gap, draws) for gap in (0.0, GAP, reach)]
            rows.append((methods, seeds, found[0], found[1], reach, found[2]))
    return rows


def _one(factor: float) -> Callable[[int], FloatArray]:
    return lambda methods: np.r_[SPREAD * factor, np.full(methods - 1, SPREAD)]


def _turns(low: float, high: float) -> Callable[[int], FloatArray]:
    return lambda methods: np.where(np.arange(methods) % 2, low, high)


# Name, spreads of a board, and the pair that is tested.
UNEVEN: tuple[tuple[str, Callable[[int], FloatArray], tuple[int, int]], ...] = (
    ("half 3, half 6: both 6", _turns(3, 6), (0, 2)),
    ("half 2, half 8: both 8", _turns(2, 8), (0, 2)),
    ("half 2, half 8: 8 and 2", _turns(2, 8), (0, 1)),
    ("half 2, half 8: both 2", _turns(2, 8), (1, 3)),
    ("2.25 to 9: the highest two", lambda methods: np.geomspace(2.25, 9, methods), (-1, -2)),
    ("2.25 to 9: highest and lowest", lambda methods: np.geomspace(2.25, 9, methods), (0, -1)),
    ("4.5, one 0 (never varies)", _one(0), (0, 1)),
    ("4.5, one 1.1", _one(0.25), (0, 1)),
    ("4.5, one 9", _one(2), (0, 1)),
    ("4.5, one 18", _one(4), (0, 1)),
)


def false_alarms(draws: int = DRAWS, methods: int = 20) -> list[tuple[str, tuple[float, ...]]]:
    """Return false alarms of a pair of equal methods per kind of board, one for each of SEEDS."""
    rng = np.random.default_rng(SEED)
    return [
        (name, tuple(rate(rng, spreads(methods), seeds, pair, 0.0, draws) for seeds in SEEDS))
        for name, spreads, pair in UNEVEN
    ]


def family(draws: int = DRAWS, methods: int = 20, figures: int = 10) -> tuple[float, ...]:
    """Return how often any of ten equal classes is told apart after Holm, one for each of SEEDS: 5 % at most."""
    rng, found = np.random.default_rng(SEED), []
    for seeds in SEEDS:
        smallest = np.ones(draws)
        for _ in range(figures):
            values = SPREAD * rng.standard_normal((draws, methods, seeds))
            variances, means = values.var(axis=2, ddof=1), values.mean(axis=2)
            typical = typical_variance(variances, np.full(methods, seeds - 1))
            pair = np.maximum(typical, np.maximum(variances[:, 0], variances[:, 1]))
            statistic = np.abs(means[:, 0] - means[:, 1]) / np.sqrt(2 * pair / seeds)
            smallest = np.minimum(smallest, 2 * t.sf(statistic, methods * (seeds - 1)))
        found.append(float(np.mean(smallest * figures <= ALPHA)))  # the first step of Holm's
    return tuple(found)


def main() -> None:
    """Print both tables."""
    print(f"{DRAWS} boards a cell, seed {SEED}; tests at {ALPHA:.0%}, two-sided; spreads and differences in points\n")
    print(f"| methods | seeds | false alarms | power at {GAP:g} | detectable at 80 % | power there |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for methods, seeds, alarm, found, reach, there in power():
        print(f"| {methods} | {seeds} | {alarm:.1%} | {found:.1%} | {reach:.1f} | {there:.1%} |")
    print("\n| 20 methods with spreads of | 3 seeds | 5 seeds |\n| --- | ---: | ---: |")
    for name, alarms in false_alarms():
        print(f"| {name} | {' | '.join(f'{alarm:.1%}' for alarm in alarms)} |")
    print(f"| 4.5, ten classes by Holm: any | {' | '.join(f'{alarm:.1%}' for alarm in family())} |")


if __name__ == "__main__":
    main()
