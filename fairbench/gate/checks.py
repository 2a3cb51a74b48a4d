"""The gate's hypotheses and their tests: has a figure dropped by at most what is tolerated?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from fairbench.errors import InvalidInput
from fairbench.gate.entry import Entry
from fairbench.gate.pairs import Pair
from fairbench.statistics.noninferiority import SELECTED, paired_drop_test, two_sample_drop_test, worst_drop_test
from fairbench.statistics.significance import (
    MIN_SEEDS,
    minimum_detectable_difference,
    seed_detectable_difference,
    seed_test,
    two_sample_detectable_difference,
)

__all__ = ["METRICS", "POWER", "Check", "by_checkpoint", "by_method"]

METRICS = ("worst", "average", "class")
POWER = 0.8


@dataclass(frozen=True)
class Check:
    """One hypothesis "`figure` of `name` has dropped by at most what is tolerated", and what became of it.

    before, after and detectable (the smallest true drop that the test finds with power 80 %) are fractions; p is
    adjusted for all that is checked at once.
    """

    name: str
    figure: str
    before: float
    after: float
    test: str
    p: float
    detectable: float
    failed: bool = False

    @property
    def drop(self) -> float:
        """before - after."""
        return self.before - self.after


def by_checkpoint(pairs: Sequence[Pair], metrics: Sequence[str], max_drop: float, alpha: float) -> list[Check]:
    """Return the checks of every pair, p not yet adjusted.

    The unit is the image: paired where both sides have verdicts. max_drop is a fraction.
    """
    family = sum(1 if metric != "class" else len(pair.present) for pair in pairs for metric in metrics)
    build = {"worst": _worst, "average": _average, "class": _classes}
    return [one for pair in pairs for metric in metrics for one in build[metric](pair, max_drop, alpha / family)]


def by_method(pairs: Sequence[Pair], metrics: Sequence[str], max_drop: float, alpha: float) -> list[Check]:
    """Return the checks of every method over its seeds, p not yet adjusted.

    The unit is the seed, the figure what is measured on this test set. Raises InvalidInput below three seeds.
    """
    groups = [list(group) for _, group in groupby(sorted(pairs, key=_method_of), key=_method_of)]
    few = next((group for group in groups if len(group) < MIN_SEEDS), None)
    if few is not None:
        raise InvalidInput(f"{few[0].before.method or 'model'}: {len(few)} seeds; the unit 'method' needs {MIN_SEEDS}")
    figures = [(group, name, figure) for group in groups for name, figure in _figures(group[0], metrics).items()]
    checks = []
    for group, name, figure in figures:
        before, after = (np.array([figure(side) for side in sides]) for sides in zip(*map(_sides, group), strict=True))
        p, test = seed_test(before, after, max_drop=max_drop, alternative="greater"), f"{len(group)} seeds"
        deviation = float((before - after).std(ddof=1))
        beyond = seed_detectable_difference(deviation, len(group), alpha=alpha / len(figures), power=POWER)
        old, new = float(before.mean()), float(after.mean())
        checks.append(Check(group[0].before.method, name, old, new, test, p, min(1.0, max_drop + beyond)))
    return checks


def _worst(pair: Pair, max_drop: float, level: float) -> list[Check]:
    counts, before, after = pair.counts, pair.before.correct, pair.after.correct
    p = worst_drop_test(before, after, counts, pair.both, max_drop)
    was, now = (min(pair.present, key=lambda label: side[label] / counts[label]) for side in (before, after))
    shown = pair.class_name(was) if was == now else f"{pair.class_name(was)} -> {pair.class_name(now)}"
    level = level if len(pair.present) == 1 else SELECTED * level
    detectable = _detectable(pair, [was], max_drop, level)
    old, new = float(before[was] / counts[was]), float(after[now] / counts[now])
    return [Check(pair.name, f"worst class ({shown})", old, new, pair.test, p, detectable)]


def _average(pair: Pair, max_drop: float, level: float) -> list[Check]:
    return [_pooled(pair, "average", pair.present, max_drop, level)]


def _classes(pair: Pair, max_drop: float, level: float) -> list[Check]:
    return [_pooled(pair, f"class {pair.class_name(label)}", [label], max_drop, level) for label in pair.present]


def _pooled(pair: Pair, figure: str, classes: Sequence[int], max_drop: float, level: float) -> Check:
    """The images of these classes taken together."""
    chosen = list(classes)
    n, before, after = (int(tally[chosen].sum()) for tally in (pair.counts, pair.before.correct, pair.after.correct))
    if pair.both is None:
        p = two_sample_drop_test(before, n, after, n, max_drop)
    else:
        kept = int(pair.both[chosen].sum())
        p = paired_drop_test(before - kept, after - kept, n, max_drop)
    detectable = _detectable(pair, chosen, max_drop, level)
    return Check(pair.name, figure, before / n, after / n, pair.test, p, detectable)


def _detectable(pair: Pair, classes: Sequence[int], max_drop: float, level: float) -> float:
    """The smallest true drop found with power 80 %, at the discordance that was seen."""
    chosen = list(classes)
    n, before, after = (int(tally[chosen].sum()) for tally in (pair.counts, pair.before.correct, pair.after.correct))
    if pair.both is None:
        share = max(before, after) / n
        return two_sample_detectable_difference(n, n, share, alpha=level, power=POWER, max_drop=max_drop)
    discordance = (before + after - 2 * int(pair.both[chosen].sum())) / n
    return minimum_detectable_difference(n, discordance, alpha=level, power=POWER, max_drop=max_drop)


def _figures(pair: Pair, metrics: Sequence[str]) -> Mapping[str, Callable[[Entry], float]]:
    found: dict[str, Callable[[Entry], float]] = {}
    if "worst" in metrics:
        found["worst class"] = lambda entry: min(float(entry.correct[c] / entry.counts[c]) for c in pair.present)
    if "average" in metrics:
        found["average"] = lambda entry: float(entry.correct.sum() / entry.counts.sum())
    if "class" in metrics:
        for label in pair.present:
            found[f"class {pair.class_name(label)}"] = lambda entry, label=label: float(  # type: ignore[misc]
                entry.correct[label] / entry.counts[label]
            )
    return found


def _method_of(pair: Pair) -> tuple[str, str, str]:
    return pair.before.suite, pair.before.protocol, pair.before.method


def _sides(pair: Pair) -> tuple[Entry, Entry]:
    return pair.before, pair.after
