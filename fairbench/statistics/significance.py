"""Significance tests on the same images, over several comparisons, and over seeds.

Two checkpoints are compared on the images that only one of them classifies correctly: `lost` images were right before
and are wrong now, `won` images the other way round. Two methods are compared over at least three seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import binom, nct, norm, t

from fairbench.errors import InvalidInput
from fairbench.statistics.noninferiority import paired_score, restricted_won

__all__ = [
    "MIN_SEEDS",
    "Alternative",
    "gatekeep",
    "holm",
    "mcnemar",
    "minimum_detectable_difference",
    "paired_interval",
    "paired_seed_test",
    "seed_detectable_difference",
    "two_sample_detectable_difference",
]

FloatArray = NDArray[np.float64]
Alternative = Literal["two-sided", "greater", "less"]

MIN_SEEDS = 3


def mcnemar(lost: int, won: int, *, alternative: Alternative = "two-sided", mid_p: bool = False) -> float:
    """Return the p-value of "lost and won images are equally probable".

    `greater` tests for more lost than won images. Given the number of changed images, the lost ones are binomial with
    probability 1/2; unchanged images carry no information. The p-value is exact, so that false alarms are at most
    alpha. With `mid_p` the observed outcome counts half, which brings false alarms close to alpha and increases power.
    Sources: McNemar 1947, in its exact conditional form; Fagerland, Lydersen and Laake 2013 for mid-p.
    """
    changed = _counts(lost, won)
    if mid_p:
        seen = float(binom.pmf(lost, changed, 0.5))
        upper = float(binom.sf(lost, changed, 0.5)) + seen / 2
        tails = {"greater": upper, "less": 1 - upper, "two-sided": min(1.0, 2 * min(upper, 1 - upper))}
        return tails[alternative]
    if alternative == "greater":
        return float(binom.sf(lost - 1, changed, 0.5))
    if alternative == "less":
        return float(binom.cdf(lost, changed, 0.5))
    return min(1.0, 2 * float(binom.cdf(min(lost, won), changed, 0.5)))


def holm(p: ArrayLike) -> FloatArray:
    """Return Holm-adjusted p-values, float64 [K] for p [K]: hypotheses with a value of at most alpha are rejected.

    The probability of any false rejection among all K is at most alpha, under any dependence. Raises InvalidInput if a
    p-value is not in [0, 1]. Source: Holm 1979.
    """
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or not np.all((values >= 0) & (values <= 1)):
        raise InvalidInput(f"p-values must be a vector of numbers in [0, 1], not {values}")
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def gatekeep(ordered: Sequence[float], family: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    """Return the adjusted p-values of hypotheses tested in a fixed order, and of a family that is tested after them.

    Each ordered hypothesis is tested at the full alpha, if all before it were rejected; then the family is tested by
    Holm. The probability of any false rejection is at most alpha. Source: Maurer, Hothorn and Lehmacher 1995.
    """
    gates = np.maximum.accumulate(np.asarray(ordered, dtype=np.float64))
    return gates, np.maximum(holm(family), gates[-1] if len(gates) else 0.0)


def paired_interval(lost: int, won: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Return the score interval at level 1 - alpha of the drop (lost - won) / n on n images, a fraction in [-1, 1].

    Raises InvalidInput for counts that n images cannot have. Source: Tango 1998.
    """
    _counts(lost, won, n)
    z, seen = float(norm.isf(alpha / 2)), (lost - won) / n
    low = -_upper_bound(won, lost, n, z, -seen)
    return low, _upper_bound(lost, won, n, z, seen)


def minimum_detectable_difference(
    n: int,
    discordance: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    comparisons: int = 1,
    max_drop: float = 0.0,
    mid_p: bool = False,
) -> float:
    """Return the smallest true drop, a fraction, that a one-sided paired test on n images detects with this power.

    discordance is the share of images on which the two checkpoints differ, at least the drop. The level of the test is
    alpha / comparisons. With max_drop 0 it is McNemar's test, exact or by `mid_p`, with its exact power; otherwise "the
    drop is at most max_drop" is tested with the score statistic, whose power is a normal approximation (Nam 1997). 1.0
    if no drop is detected.
    """
    if n < 1 or not 0 <= discordance <= 1 or comparisons < 1 or not 0 <= max_drop < 1:
        raise InvalidInput(f"no test has {n} images, discordance {discordance:g} and {comparisons} comparisons")
    level = alpha / comparisons

    def lacking(drop: float) -> float:
        changed = max(discordance, drop)
        if max_drop == 0:
            return _mcnemar_power(n, changed, drop, level, mid_p) - power
        return _score_power(n, changed, drop, level, max_drop) - power

    return 1.0 if lacking(1.0) < 0 else float(brentq(lacking, max_drop, 1.0, xtol=1e-6))


def two_sample_detectable_difference(
    n_before: int,
    n_after: int,
    share: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    comparisons: int = 1,
    max_drop: float = 0.0,
) -> float:
    """Return the smallest true drop from `share` that a one-sided two-sample test detects with this power.

    It uses the normal approximation with the variance at the drop; 1.0 if not even a drop to 0 is detected. Raises
    InvalidInput for no images or a share outside [0, 1].
    """
    if min(n_before, n_after) < 1 or not 0 <= share <= 1:
        raise InvalidInput(f"no share {share:g} of {n_before} and {n_after} images")
    quantiles = float(norm.isf(alpha / comparisons)) + float(norm.isf(1 - power))

    def lacking(drop: float) -> float:
        rest = share - drop
        spread = share * (1 - share) / n_before + rest * (1 - rest) / n_after
        return quantiles * float(np.sqrt(spread)) - (drop - max_drop)

    return 1.0 if share <= max_drop or lacking(share) > 0 else float(brentq(lacking, max_drop, share, xtol=1e-6))


def paired_seed_test(
    a: ArrayLike, b: ArrayLike, *, max_drop: float = 0.0, alternative: Alternative = "two-sided"
) -> float:
    """Return the p-value of "the mean drop from a to b is max_drop"; a and b [S] hold one figure per seed, in order.

    `greater` tests for a larger drop. It is a paired t-test; if all drops are equal, which a t-test cannot judge, p is
    the share of sign flips that are as extreme. Raises InvalidInput below three seeds.
    """
    excess = _drops(a, b) - max_drop
    seeds, deviation = len(excess), float(excess.std(ddof=1))
    if deviation <= 1e-12:
        extreme = {"two-sided": abs(excess[0]), "greater": excess[0], "less": -excess[0]}[alternative] > 1e-12
        return min(1.0, (2 if alternative == "two-sided" else 1) * 0.5**seeds) if extreme else 1.0
    statistic = float(excess.mean()) / (deviation / seeds**0.5)
    tails = {
        "two-sided": 2 * t.sf(abs(statistic), seeds - 1),
        "greater": t.sf(statistic, seeds - 1),
        "less": t.cdf(statistic, seeds - 1),
    }
    return float(tails[alternative])


def seed_detectable_difference(
    deviation: float, seeds: int, *, alpha: float = 0.05, power: float = 0.8, comparisons: int = 1
) -> float:
    """Return by how much the true mean drop must exceed the tolerance for a one-sided `paired_seed_test` to detect it.

    deviation is the standard deviation of the drop over seeds. Raises InvalidInput below three seeds.
    """
    if seeds < MIN_SEEDS or deviation < 0:
        raise InvalidInput(f"a test over seeds needs {MIN_SEEDS} seeds, not {seeds}")
    critical = float(t.isf(alpha / comparisons, seeds - 1))

    def lacking(shift: float) -> float:
        return float(nct.sf(critical, seeds - 1, shift)) - power

    return float(brentq(lacking, 0.0, 4 * critical + 10)) * deviation / float(np.sqrt(seeds))


def _upper_bound(lost: int, won: int, n: int, z: float, seen: float) -> float:
    """Return the largest drop whose score statistic is at least -z."""

    def distance(drop: float) -> float:
        return float(paired_score(lost, won, n, drop)) + z

    edge = 1 - 1e-9
    return 1.0 if seen >= edge or distance(edge) > 0 else float(brentq(distance, max(seen, -edge), edge, xtol=1e-10))


def _mcnemar_power(n: int, discordance: float, drop: float, level: float, mid_p: bool) -> float:
    """Return the power of McNemar's one-sided test, summed over the number of changed images."""
    if discordance == 0:
        return 0.0
    changed = np.arange(n + 1)
    critical = np.asarray(binom.isf(level, changed, 0.5)) + 1
    if mid_p:
        half = np.asarray(binom.pmf(critical - 1, changed, 0.5)) / 2
        critical = critical - (binom.sf(critical - 1, changed, 0.5) + half <= level)
    tail = binom.sf(critical - 1, changed, (1 + drop / discordance) / 2)
    return float(np.sum(binom.pmf(changed, n, discordance) * tail))


def _score_power(n: int, discordance: float, drop: float, level: float, max_drop: float) -> float:
    lost, won = n * (discordance + drop) / 2, n * (discordance - drop) / 2
    null = 2 * float(restricted_won(lost, won, n, max_drop)) + max_drop - max_drop**2
    spread = max(discordance - drop**2, 1e-12)
    distance = (drop - max_drop) * n**0.5 - float(norm.isf(level)) * null**0.5
    return float(norm.cdf(distance / spread**0.5))


def _drops(a: ArrayLike, b: ArrayLike) -> FloatArray:
    before, after = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if before.ndim != 1 or before.shape != after.shape:
        raise InvalidInput(f"figures a seed must be two vectors of one length, not {before.shape} and {after.shape}")
    if len(before) < MIN_SEEDS:
        raise InvalidInput(f"a test over seeds needs {MIN_SEEDS} seeds, not {len(before)}")
    if not np.all(np.isfinite(before) & np.isfinite(after)):
        raise InvalidInput("figures a seed must be finite numbers")
    return before - after


def _counts(lost: int, won: int, n: int | None = None) -> int:
    if lost < 0 or won < 0 or (n is not None and (n < 1 or lost + won > n)):
        raise InvalidInput(f"{lost} lost and {won} won{'' if n is None else f' of {n}'} images is impossible")
    return lost + won
