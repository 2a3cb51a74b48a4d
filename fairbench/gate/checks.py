"""The hypotheses of the gate, "a figure has dropped by at most the tolerance", and their tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from fairbench.errors import InvalidInput
from fairbench.gate import levels
from fairbench.gate.entry import Entry
from fairbench.gate.pairs import Pair
from fairbench.statistics.noninferiority import SELECTED, paired_drop_test, two_sample_drop_test, worst_drop_test
from fairbench.statistics.significance import (
    MIN_SEEDS,
    minimum_detectable_difference,
    paired_seed_test,
    seed_detectable_difference,
    two_sample_detectable_difference,
)

__all__ = ["METRICS", "POWER", "Check", "by_checkpoint", "by_method", "judged"]

IntArray = NDArray[np.int64]

METRICS = ("worst", "average", "class")
POWER = 0.8


@dataclass(frozen=True)
class Check:
    """The hypothesis "`figure` of `name` has dropped by at most the tolerance", and the result of its test.

    before, after and detectable are fractions; detectable is the smallest true drop that the test detects with power 80
    %, infinite if no drop that is possible from `before` is detected. share is the hypothesis' part of alpha. can_fail
    is False if even a candidate with no right image would pass. p is adjusted for all checks of the call.
    """

    name: str
    figure: str
    before: float
    after: float
    test: str
    p: float
    detectable: float
    share: float = 1.0
    can_fail: bool = True
    failed: bool = False

    @property
    def drop(self) -> float:
        """before - after."""
        return self.before - self.after


def judged(checks: Sequence[Check], alpha: float) -> list[Check]:
    """Return the checks with p adjusted by the weighted Holm procedure; a check fails if it is at most alpha."""
    found = levels.adjusted([one.p for one in checks], [one.share for one in checks])
    return [replace(one, p=float(p), failed=bool(p <= alpha)) for one, p in zip(checks, found, strict=True)]


def by_checkpoint(pairs: Sequence[Pair], metrics: Sequence[str], max_drop: float, alpha: float) -> list[Check]:
    """Return the checks of every pair, with p not yet adjusted.

    The unit is the image; tests are paired if both sides have verdicts. max_drop is a fraction. All pairs get equal
    parts of alpha, which `levels.share` divides among the metrics.
    """
    build = {"worst": _worst, "average": _average, "class": _classes}
    checks = []
    for pair in pairs:
        for metric in metrics:
            members = len(pair.present) if metric == "class" else 1
            share = levels.share(metric, metrics, members) / len(pairs)
            checks += [replace(one, share=share) for one in build[metric](pair, max_drop, alpha * share)]
    return checks


def by_method(pairs: Sequence[Pair], metrics: Sequence[str], max_drop: float, alpha: float) -> list[Check]:
    """Return the checks of every method over its seeds, with p not yet adjusted.

    The unit is the seed, and the test images are held fixed. Raises InvalidInput below three seeds.
    """
    groups = [list(group) for _, group in groupby(sorted(pairs, key=_method_of), key=_method_of)]
    few = next((group for group in groups if len(group) < MIN_SEEDS), None)
    if few is not None:
        raise InvalidInput(
            f"{few[0].before.method or 'model'}: {len(few)} seed{'s' * (len(few) != 1)}; the unit 'method' needs "
            f"{MIN_SEEDS} or more"
        )
    checks = []
    for group in groups:
        for metric in metrics:
            figures = _figures(group[0], metric)
            share = levels.share(metric, metrics, len(figures)) / len(groups)
            for name, figure in figures.items():
                checks.append(replace(_over_seeds(group, name, figure, max_drop, alpha * share), share=share))
    return checks


def _over_seeds(
    group: Sequence[Pair], name: str, figure: Callable[[Entry], float], max_drop: float, level: float
) -> Check:
    before, after = (np.array([figure(side) for side in sides]) for sides in zip(*map(_sides, group), strict=True))
    p, test = paired_seed_test(before, after, max_drop=max_drop, alternative="greater"), f"{len(group)} seeds"
    least = paired_seed_test(before, np.zeros_like(before), max_drop=max_drop, alternative="greater")
    old, new = float(before.mean()), float(after.mean())
    detectable = _detectable_over_seeds(before - after, max_drop, old, level)
    # An even drop may be found where a fall to 0, which spreads as the baseline does, is not.
    can_fail = min(p, least) <= level or math.isfinite(detectable)
    return Check(group[0].method_name, name, old, new, test, p, detectable, can_fail=can_fail)


def _detectable_over_seeds(drops: NDArray[np.float64], max_drop: float, before: float, level: float) -> float:
    """The detectable mean drop for seeds whose drops [S] spread as these do; infinite if no drop would be found."""
    deviation, seeds = float(drops.std(ddof=1)), len(drops)
    if deviation <= 1e-12 and 0.5**seeds > level:  # equal drops are judged by sign flips, of which there are too few
        return math.inf
    return _possible(max_drop + seed_detectable_difference(deviation, seeds, alpha=level, power=POWER), before)


def _worst(pair: Pair, max_drop: float, level: float) -> list[Check]:
    counts, before, after = pair.counts, pair.before.correct, pair.after.correct
    p = worst_drop_test(before, after, counts, pair.both, max_drop)
    was, now = (min(pair.present, key=lambda label: side[label] / counts[label]) for side in (before, after))
    shown = pair.class_name(was) if was == now else f"{pair.class_name(was)} -> {pair.class_name(now)}"
    old, new = float(before[was] / counts[was]), float(after[now] / counts[now])
    detectable = _detectable(pair, [was], max_drop, level if len(pair.present) == 1 else SELECTED * level)
    none = np.zeros_like(before)
    can_fail = worst_drop_test(before, none, counts, None if pair.both is None else none, max_drop) <= level
    return [Check(pair.name, f"worst class ({shown})", old, new, pair.test, p, detectable, can_fail=can_fail)]


def _average(pair: Pair, max_drop: float, level: float) -> list[Check]:
    return [_pooled(pair, "average", pair.present, max_drop, level)]


def _classes(pair: Pair, max_drop: float, level: float) -> list[Check]:
    return [_pooled(pair, f"class {pair.class_name(label)}", [label], max_drop, level) for label in pair.present]


def _pooled(pair: Pair, figure: str, classes: Sequence[int], max_drop: float, level: float) -> Check:
    """Return the check of the accuracy over the images of these classes."""
    n, before, after = _totals(pair, classes)
    if pair.both is None:
        p, least = (two_sample_drop_test(before, n, right, n, max_drop) for right in (after, 0))
    else:
        kept = int(pair.both[list(classes)].sum())
        p, least = (
            paired_drop_test(lost, won, n, max_drop) for lost, won in ((before - kept, after - kept), (before, 0))
        )
    detectable = _detectable(pair, classes, max_drop, level)
    return Check(pair.name, figure, before / n, after / n, pair.test, p, detectable, can_fail=least <= level)


def _detectable(pair: Pair, classes: Sequence[int], max_drop: float, level: float) -> float:
    """Return the smallest true drop detected with power 80 % at the observed discordance; infinite if none."""
    n, before, after = _totals(pair, classes)
    if pair.both is None:
        share = max(before, after) / n
        found = two_sample_detectable_difference(n, n, share, alpha=level, power=POWER, max_drop=max_drop)
    else:
        discordance = (before + after - 2 * int(pair.both[list(classes)].sum())) / n
        found = minimum_detectable_difference(n, discordance, alpha=level, power=POWER, max_drop=max_drop)
    return _possible(found, before / n)


def _possible(drop: float, before: float) -> float:
    """Return the drop, or infinity if it exceeds the accuracy before; a drop of 1.0 means that none is detected."""
    return drop if drop <= before and drop < 1 else math.inf


def _totals(pair: Pair, classes: Sequence[int]) -> tuple[int, int, int]:
    """Return the number of images of these classes, of those right before, and of those right after."""
    n, before, after = (int(tally[list(classes)].sum()) for tally in (pair.counts, *(e.correct for e in _sides(pair))))
    return n, before, after


def _figures(pair: Pair, metric: str) -> Mapping[str, Callable[[Entry], float]]:
    """Return the figures that a metric checks for every seed, by name, as functions of an entry."""
    if metric == "worst":
        return {"worst class": lambda entry: min(float(entry.correct[c] / entry.counts[c]) for c in pair.present)}
    if metric == "average":
        return {"average": lambda entry: float(entry.correct.sum() / entry.counts.sum())}
    return {f"class {pair.class_name(label)}": _accuracy_of(label) for label in pair.present}


def _accuracy_of(label: int) -> Callable[[Entry], float]:
    return lambda entry: float(entry.correct[label] / entry.counts[label])


def _method_of(pair: Pair) -> tuple[str, str, str]:
    return pair.before.suite, pair.before.protocol, pair.before.method


def _sides(pair: Pair) -> tuple[Entry, Entry]:
    return pair.before, pair.after
