"""Print how often `leaderboard compare` errs and what it detects: `python docs/simulations/comparison.py`.

A leaderboard holds `methods` methods with `CLASSES` classes each; the figures over seeds are normal, and the figures of
a method's classes have correlation `SHARED`. The worst class, which is tested, is the same class in all runs. The first
table has the power, the second the false alarms of one pair of methods if the methods differ in spread, in all classes
or in the worst class alone; its last column is that of a method with three seeds on a leaderboard of five. The third
table has the power of the best conceivable test that uses the figures of the worst class only. About three minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.stats import chi2, norm, t

from fairbench.statistics.moderated import (
    WIDE,
    Spread,
    difference_detectable,
    middle_variance,
    pair_variance,
    typical_variance,
)

FloatArray = NDArray[np.float64]
Counts = NDArray[np.int64]

SEED, DRAWS, ALPHA, CHUNK = 20240, 20_000, 0.05, 1000
SPREAD, GAP, CLASSES, SHARED = 4.5, 10.0, 10, 0.2
SEEDS = (3, 5)
LIMITS = (0.05, 0.055, 0.065, 0.075, 0.10)


def boards(draws: int, spreads: FloatArray, worst: FloatArray, seeds: int) -> Iterator[FloatArray]:
    """Yield leaderboards in chunks, float [B, M, C, S], with the spreads [M] of all classes and of the worst one, 0."""
    rng, methods = np.random.default_rng(SEED), len(spreads)
    scale = np.repeat(spreads[:, None], CLASSES, axis=1)
    scale[:, 0] = worst
    for start in range(0, draws, CHUNK):
        size = min(CHUNK, draws - start)
        common = rng.standard_normal((size, methods, 1, seeds))
        own = rng.standard_normal((size, methods, CLASSES, seeds))
        yield (np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * own) * scale[..., None]


def over_seeds(values: FloatArray, counts: Counts) -> tuple[FloatArray, FloatArray]:
    """Return the means and the variances [B, M, C] of the first seeds [B, M, C, S] of each method, counts [M]."""
    kept = [values[:, method, :, :count] for method, count in enumerate(counts)]
    return np.stack([one.mean(axis=2) for one in kept], 1), np.stack([one.var(axis=2, ddof=1) for one in kept], 1)


def p_values(values: FloatArray, first: int, second: int, gap: float, counts: Counts) -> FloatArray:
    """Return `moderated_test` of two methods' worst classes on each leaderboard [B, M, C, S], the first raised by
    gap; each method has the first seeds of counts [M]."""
    averages, variances = over_seeds(values, counts)
    means, freedom = averages[:, :, 0], counts - 1
    worst, pair = variances[:, :, 0], [first, second]
    used = pair_variance(worst[:, first], worst[:, second], typical_variance(worst, freedom))
    middle = middle_variance(np.swapaxes(variances, 1, 2), freedom)
    ratio = (variances[:, pair] / middle[:, None]).mean(axis=2)
    least = np.where((ratio > WIDE) & (worst[:, pair] > 0), ratio * middle[:, :1], 0.0)
    used = np.maximum(used, least.max(axis=1))
    error = np.sqrt(used * (1 / counts[first] + 1 / counts[second]))
    statistic = np.abs(means[:, first] + gap - means[:, second]) / error
    found: FloatArray = 2 * t.sf(statistic, freedom.sum())
    return found


def rates(
    spreads: FloatArray, worst: FloatArray, counts: Counts, pair: tuple[int, int], gaps: tuple[float, ...], draws: int
) -> list[float]:
    """Return the share of leaderboards on which a pair is told apart, for each difference of its true means."""
    hits = np.zeros(len(gaps))
    for values in boards(draws, spreads, worst, int(counts.max())):
        hits += [float(np.sum(p_values(values, *pair, gap, counts) <= ALPHA)) for gap in gaps]
    return [float(rate) for rate in hits / draws]


def power(draws: int = DRAWS) -> list[tuple[int, int, float, float, float, float]]:
    """Return a row (methods, seeds, false alarms, power at GAP, detectable, power there) per size, spread SPREAD."""
    rows = []
    for methods in (2, 5, 10, 20, 40):
        for seeds in SEEDS:
            spreads = np.full(methods, SPREAD)
            reach = difference_detectable(Spread(SPREAD**2, methods * (seeds - 1)), seeds)
            counts = np.full(methods, seeds)
            alarm, found, there = rates(spreads, spreads, counts, (0, 1), (0.0, GAP, reach), draws)
            rows.append((methods, seeds, alarm, found, reach, there))
    return rows


def _one(factor: float) -> Callable[[int], FloatArray]:
    return lambda methods: np.r_[SPREAD * factor, np.full(methods - 1, SPREAD)]


def _turns(low: float, high: float) -> Callable[[int], FloatArray]:
    return lambda methods: np.where(np.arange(methods) % 2, low, high).astype(np.float64)


# Name, spreads of a leaderboard's methods, the pair that is tested, and whether only the worst class has these spreads.
UNEVEN: tuple[tuple[str, Callable[[int], FloatArray], tuple[int, int], bool], ...] = (
    ("half 3, half 6: both 6", _turns(3, 6), (0, 2), False),
    ("half 2, half 8: both 8", _turns(2, 8), (0, 2), False),
    ("half 2, half 8: 8 and 2", _turns(2, 8), (0, 1), False),
    ("half 2, half 8: both 2", _turns(2, 8), (1, 3), False),
    ("2.25 to 9: the highest two", lambda methods: np.geomspace(2.25, 9, methods), (-1, -2), False),
    ("2.25 to 9: highest and lowest", lambda methods: np.geomspace(2.25, 9, methods), (0, -1), False),
    ("4.5, one 0 (never varies)", _one(0), (0, 1), False),
    ("4.5, one 1.1", _one(0.25), (0, 1), False),
    ("4.5, one 6.8", _one(1.5), (0, 1), False),
    ("4.5, one 9", _one(2), (0, 1), False),
    ("4.5, one 18", _one(4), (0, 1), False),
    ("4.5, one 9 in the worst class alone", _one(2), (0, 1), True),
    ("4.5, one 18 in the worst class alone", _one(4), (0, 1), True),
)


def numbers_of_seeds(methods: int, pair: tuple[int, int]) -> dict[str, list[Counts]]:
    """Return the numbers of seeds of all methods by column; in the last column either method of the pair has fewer."""
    few, many = SEEDS
    one_few = [np.full(methods, many) for _ in pair]
    for counts, method in zip(one_few, pair, strict=True):
        counts[method] = few
    return {
        **{f"{seeds} seeds": [np.full(methods, seeds)] for seeds in SEEDS},
        f"{few} against {many}, the worse side": one_few,
    }


def false_alarms(draws: int = DRAWS, methods: int = 20) -> list[tuple[str, dict[str, float]]]:
    """Return false alarms of a pair of equal methods per kind of leaderboard, by column of `numbers_of_seeds`."""
    rows = []
    for name, of, pair, alone in UNEVEN:
        worst = of(methods)
        spreads = np.full(methods, SPREAD) if alone else worst
        found = {
            column: max(rates(spreads, worst, counts, pair, (0.0,), draws)[0] for counts in each)
            for column, each in numbers_of_seeds(methods, pair).items()
        }
        rows.append((name, found))
    return rows


def family(draws: int = DRAWS, methods: int = 20) -> dict[str, float]:
    """Return how often any of ten equal classes is told apart after Holm, by column: 5 % at most."""
    return {
        column: max(_any_class(counts, draws) for counts in each)
        for column, each in numbers_of_seeds(methods, (0, 1)).items()
    }


def _any_class(counts: Counts, draws: int) -> float:
    hits, spreads = 0, np.full(len(counts), SPREAD)
    for values in boards(draws, spreads, spreads, int(counts.max())):
        means, variances = over_seeds(values, counts)
        typical = typical_variance(np.swapaxes(variances, 1, 2), counts - 1)
        used = np.maximum(typical, np.maximum(variances[:, 0], variances[:, 1]))
        statistic = np.abs(means[:, 0] - means[:, 1]) / np.sqrt(used * (1 / counts[0] + 1 / counts[1]))
        smallest = (2 * t.sf(statistic, (counts - 1).sum())).min(axis=1)
        hits += int(np.sum(smallest * CLASSES <= ALPHA))  # Holm's first step
    return hits / draws


def frontier(limit: float, widest: float = 4.0, seeds: int = 3) -> float:
    """Return the highest power at GAP of any test of two figures with at most `limit` false alarms.

    The test knows the typical spread and sees the difference of the two means and both variances, which are sufficient
    for normal figures; one method may spread up to `widest` times as far as the typical one. A linear program over a
    grid of these three numbers finds the best test.
    """
    edges = np.r_[0, np.geomspace(0.01, 80, 39), np.inf]
    reach = np.r_[np.linspace(0, 14, 71), np.inf]

    def chances(one: float, gap: float = 0.0) -> FloatArray:
        spent = [np.diff(chi2.cdf(edges * (seeds - 1) / factor**2, seeds - 1)) for factor in (one, 1.0)]
        error = ((one**2 + 1) / seeds) ** 0.5
        apart = np.diff(norm.cdf((reach - gap) / error) + norm.cdf((reach + gap) / error))
        both = np.einsum("i,j,k->ijk", *spent, apart)
        return (both + np.swapaxes(both, 0, 1)).ravel() / 2

    factors = [factor for factor in (0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0) if factor <= widest]
    alarms = np.array([chances(factor) for factor in factors])
    best = linprog(-chances(1.0, GAP / SPREAD), A_ub=alarms, b_ub=np.full(len(factors), limit), bounds=(0, 1))
    return -float(best.fun)


def main() -> None:
    """Print the tables."""
    print(f"{DRAWS} boards a cell, seed {SEED}; tests at {ALPHA:.0%}, two-sided; spreads and differences in points\n")
    print(f"| methods | seeds | false alarms | power at {GAP:g} | detectable at 80 % | power there |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for methods, seeds, alarm, found, reach, there in power():
        print(f"| {methods} | {seeds} | {alarm:.1%} | {found:.1%} | {reach:.1f} | {there:.1%} |")
    rows = [*false_alarms(), ("4.5, ten classes by Holm: any", family())]
    columns = rows[0][1]
    print(f"\n| 20 methods with spreads of | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}")
    for name, alarms in rows:
        print(f"| {name} | {' | '.join(f'{alarm:.1%}' for alarm in alarms.values())} |")
    print(f"\n| false alarms at most, three seeds | {' | '.join(f'{limit:.1%}' for limit in LIMITS)} |")
    print(f"| --- |{' ---: |' * len(LIMITS)}")
    for widest in (1.0, 2.0, 4.0):
        cells = [f"{frontier(limit, widest):.1%}" for limit in LIMITS]
        name = "all methods spread alike" if widest == 1 else f"one spreads up to {widest:g} times as far"
        print(f"| best power at {GAP:g}, {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
