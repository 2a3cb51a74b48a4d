"""Which checkpoint of a candidate answers which of a baseline, and whether the two can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairbench.errors import InvalidInput, UnknownName
from fairbench.evaluation.verdicts import UNION
from fairbench.gate.entry import Entry
from fairbench.statistics import metrics

__all__ = ["Pair", "chosen", "matched", "require_one"]

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pair:
    """A checkpoint before and after, on the same test images."""

    before: Entry
    after: Entry

    @property
    def name(self) -> str:
        """The candidate's name, or the baseline's where only that has one."""
        return self.after.name if self.after.method else self.before.name

    @property
    def counts(self) -> IntArray:
        """Images of each class, int64 [C]."""
        return self.before.counts

    @property
    def present(self) -> list[int]:
        """The classes that have images."""
        return [int(label) for label in np.flatnonzero(self.counts)]

    @property
    def both(self) -> IntArray | None:
        """Images right on both sides by class, int64 [C]; None unless both sides have verdicts."""
        if self.before.hits is None or self.after.hits is None or self.before.labels is None:
            return None
        kept = self.before.labels[self.before.hits & self.after.hits]
        return metrics.class_counts(kept, len(self.counts)) if len(kept) else np.zeros_like(self.counts)

    @property
    def test(self) -> str:
        """`paired` or `two-sample`."""
        return "two-sample" if self.both is None else "paired"

    def class_name(self, label: int) -> str:
        """The class's name, its number where names are not known."""
        names = self.before.class_names or self.after.class_names
        return names[label] if names else str(label)


def matched(
    before: Sequence[Entry],
    after: Sequence[Entry],
    *,
    attack: str,
    methods: Sequence[str] | None = None,
    seeds: Sequence[str] | None = None,
) -> list[Pair]:
    """Return a pair for every checkpoint of the baseline, those of the newest protocol that both sides have.

    A checkpoint given by itself is compared with the one of the other side, whatever that is called. What a candidate
    has beyond the baseline is left alone. Raises InvalidInput where a row is missing or two sides cannot be compared.
    """
    before, after = (
        chosen(side, entries, methods, seeds) for side, entries in (("baseline", before), ("candidate", after))
    )
    alone = any(entry.alone for entry in (*before, *after))
    pairs = [_single_pair(before, after)] if alone else _named_pairs(before, after)
    for pair in pairs:
        _require_comparable(pair, attack)
    return pairs


def _single_pair(before: Sequence[Entry], after: Sequence[Entry]) -> Pair:
    """The pair of two checkpoints given by themselves; a run has an entry for each version of its suite."""
    for held in (before, after):
        require_one(held)
    pairs = [Pair(old, new) for old in before for new in after if _same_protocol(old, new)]
    if not pairs:
        raise InvalidInput(
            f"the baseline's protocol is {before[0].protocol}, the candidate's {after[0].protocol}: "
            "figures of two protocols cannot be compared"
        )
    return max(pairs, key=lambda pair: (set(pair.before.attacks) == set(pair.after.attacks), pair.before.version))


def _same_protocol(old: Entry, new: Entry) -> bool:
    return not old.protocol or not new.protocol or old.protocol == new.protocol


def _named_pairs(before: Sequence[Entry], after: Sequence[Entry]) -> list[Pair]:
    protocols = _common_protocols(before, after)
    wanted, answers = (
        [entry for entry in side if entry.protocol == protocols.get(entry.suite)] for side in (before, after)
    )
    for side in (wanted, answers):
        if len({_key(entry) for entry in side}) < len(side):
            raise InvalidInput("a method and seed occur twice on one side; give a board with one run of each")
    by_key = {_key(entry): entry for entry in answers}
    missing = [entry.name for entry in wanted if _key(entry) not in by_key]
    if missing:
        shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise InvalidInput(f"missing from the candidate: {shown}: {len(missing)} of {len(wanted)} rows")
    return [Pair(entry, by_key[_key(entry)]) for entry in wanted]


def chosen(
    side: str, entries: Sequence[Entry], methods: Sequence[str] | None, seeds: Sequence[str] | None
) -> list[Entry]:
    """Return the entries of these methods and seeds, and any given by itself; raises UnknownName and InvalidInput."""
    found = list(entries)
    for kind, wanted in (("method", methods), ("seed", seeds)):
        if wanted is None:
            continue
        held = {getattr(entry, kind) for entry in found if not entry.alone}
        absent = [name for name in wanted if held and name not in held]
        if absent:
            raise UnknownName(f"{kind} of the {side}", absent[0], held)
        found = [entry for entry in found if entry.alone or getattr(entry, kind) in wanted]
    if not found:
        raise InvalidInput(f"the {side} holds no checkpoint to compare")
    return found


def require_one(entries: Sequence[Entry]) -> None:
    """Raise InvalidInput unless all entries are of one checkpoint, under one protocol or several."""
    names = list(dict.fromkeys(entry.name for entry in entries))
    if len(names) > 1:
        shown = ", ".join(names[:5])
        raise InvalidInput(
            f"one checkpoint cannot be compared with {len(names)}: choose a method and a seed of {shown}"
        )


def _common_protocols(before: Sequence[Entry], after: Sequence[Entry]) -> dict[str, str]:
    """For every suite of the baseline the newest protocol of both sides."""
    common = {}
    for suite in dict.fromkeys(entry.suite for entry in before):
        old, new = ({e.protocol: e.version for e in side if e.suite == suite} for side in (before, after))
        shared = sorted(old.keys() & new.keys(), key=lambda protocol: max(old[protocol], new[protocol]))
        if not new:
            raise InvalidInput(f"missing from the candidate: every row of suite {suite}")
        if not shared:
            raise InvalidInput(
                f"suite {suite}: the baseline's protocol is {', '.join(old)}, the candidate's {', '.join(new)}: "
                "figures of two protocols cannot be compared"
            )
        common[suite] = shared[-1]
    return common


def _require_comparable(pair: Pair, attack: str) -> None:
    """Raise InvalidInput unless both sides speak of the same attack on the same images."""
    before, after = pair.before, pair.after
    differs = None
    if before.class_names and after.class_names and before.class_names != after.class_names:
        differs = "classes"
    elif len(before.counts) != len(after.counts):
        differs = f"numbers of classes ({len(before.counts)} and {len(after.counts)})"
    elif not np.array_equal(before.counts, after.counts):
        differs = "test images: the classes have other numbers of them"
    elif before.labels is not None and after.labels is not None and not np.array_equal(before.labels, after.labels):
        differs = "test labels"
    elif before.data and after.data and before.data != after.data:
        differs = "data sets"
    elif attack == UNION and set(before.attacks) != set(after.attacks):
        apart = sorted(set(before.attacks) ^ set(after.attacks))
        differs = f"attacks in their union ({', '.join(apart)} on one side only)"
    elif not (before.protocol and before.protocol == after.protocol):
        if before.threat is None or after.threat is None:
            raise InvalidInput(f"{pair.name}: the {'candidate' if before.threat else 'baseline'} names no threat model")
        if before.threat[0] != after.threat[0] or abs(before.threat[1] - after.threat[1]) > 1e-9:
            differs = f"threat models ({_threat(before.threat)} and {_threat(after.threat)})"
    if differs:
        raise InvalidInput(f"{pair.name}: cannot be compared: the two sides have different {differs}")


def _key(entry: Entry) -> tuple[str, str, str, str]:
    return entry.suite, entry.protocol, entry.method, entry.seed


def _threat(threat: tuple[str, float]) -> str:
    return f"{threat[0]} {threat[1]:.5g}"
