"""A checkpoint of the baseline with its counterpart of the candidate, and whether the two can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairbench.errors import InvalidInput, UnknownName
from fairbench.evaluation.verdicts import UNION
from fairbench.gate.entry import Entry
from fairbench.statistics import metrics

__all__ = ["Pair", "chosen", "require_choice", "require_comparable", "require_one"]

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pair:
    """A checkpoint before and after, on the same test images."""

    before: Entry
    after: Entry

    @property
    def name(self) -> str:
        """The two names, or one if they are equal or only one side has a name."""
        named = [side.name for side in (self.before, self.after) if side.method]
        return " -> ".join(dict.fromkeys(named)) or self.before.name

    @property
    def method_name(self) -> str:
        """The method's name, or both names if the methods differ."""
        return " -> ".join(dict.fromkeys(side.method for side in (self.before, self.after) if side.method)) or "model"

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
        return metrics.images_per_class(kept, len(self.counts)) if len(kept) else np.zeros_like(self.counts)

    @property
    def test(self) -> str:
        """`paired` or `two-sample`."""
        return "two-sample" if self.both is None else "paired"

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number if names are unknown."""
        names = self.before.class_names or self.after.class_names
        return names[label] if names else str(label)


def chosen(
    side: str, entries: Sequence[Entry], methods: Sequence[str] | None, seeds: Sequence[str] | None
) -> list[Entry]:
    """Return the entries of these methods and seeds, and any single checkpoint; raises UnknownName and InvalidInput."""
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


def require_choice(entries: Sequence[Entry], named: Sequence[str]) -> None:
    """Raise InvalidInput if methods or seeds are named where there are only single checkpoints to compare."""
    if named and all(entry.alone for entry in entries):
        raise InvalidInput(
            f"{named[0]!r}: methods and seeds choose among the checkpoints of a board, and here each side is one "
            "checkpoint: leave them out"
        )


def require_one(entries: Sequence[Entry]) -> None:
    """Raise InvalidInput unless all entries belong to one checkpoint, under one protocol or several."""
    names = list(dict.fromkeys(entry.name for entry in entries))
    if len(names) > 1:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise InvalidInput(
            f"one checkpoint cannot be compared with {len(names)}: choose one by its method and seed: {shown}"
        )


def require_comparable(pair: Pair, attack: str) -> None:
    """Raise InvalidInput unless both sides were evaluated under the same attack on the same images."""
    differs = _data_difference(pair) or _attack_difference(pair, attack)
    if differs:
        raise InvalidInput(f"{pair.name}: cannot be compared: the two sides have different {differs}")


def _data_difference(pair: Pair) -> str | None:
    """Return what differs between the test images of the two sides; unknown values are not compared."""
    before, after = pair.before, pair.after
    if before.class_names and after.class_names and before.class_names != after.class_names:
        return "classes"
    if len(before.counts) != len(after.counts):
        return f"numbers of classes ({len(before.counts)} and {len(after.counts)})"
    if not np.array_equal(before.counts, after.counts):
        return "test images: the classes have other numbers of them"
    if before.labels is not None and after.labels is not None and not np.array_equal(before.labels, after.labels):
        return "test labels"
    if before.images_hash and after.images_hash and before.images_hash != after.images_hash:
        return "test images"
    return "datasets" if before.data and after.data and before.data != after.data else None


def _attack_difference(pair: Pair, attack: str) -> str | None:
    """Return what differs between the attacks or threat models; raises InvalidInput for an unknown threat model."""
    before, after = pair.before, pair.after
    if attack == UNION and set(before.attacks) != set(after.attacks):
        apart = sorted(set(before.attacks) ^ set(after.attacks))
        return f"attacks in their union ({', '.join(apart)} on one side only)"
    if before.protocol and before.protocol == after.protocol:
        return None
    if before.threat is None or after.threat is None:
        raise InvalidInput(f"{pair.name}: the {'candidate' if before.threat else 'baseline'} names no threat model")
    same = before.threat[0] == after.threat[0] and abs(before.threat[1] - after.threat[1]) <= 1e-9
    return None if same else f"threat models ({_threat(before.threat)} and {_threat(after.threat)})"


def _threat(threat: tuple[str, float]) -> str:
    return f"{threat[0]} {threat[1]:.5g}"
