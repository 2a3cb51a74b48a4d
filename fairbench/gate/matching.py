"""The pairs of checkpoints of a baseline and a candidate, and the checkpoints that are left out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from fairbench.errors import InvalidInput
from fairbench.evaluation.verdicts import UNION
from fairbench.gate.entry import KIND, Entry
from fairbench.gate.pairs import Pair, chosen, require_choice, require_comparable, require_one

__all__ = ["SHARED", "Matching", "matched"]

SHARED = "shared"
SHOWN = 5


@dataclass(frozen=True, eq=False)
class Matching:
    """The pairs that are compared, and sentences that name the checkpoints left out."""

    pairs: tuple[Pair, ...]
    left_out: tuple[str, ...] = ()

    @property
    def pin(self) -> str:
        """A hash of the compared figures of the baseline; it identifies the baseline."""
        figures = sorted(
            [entry.suite, entry.protocol, *entry.key, entry.correct.tolist(), entry.counts.tolist()]
            for entry in (pair.before for pair in self.pairs)
        )
        return hashlib.sha256(json.dumps(figures).encode()).hexdigest()[:12]

    def compared(self, attack: str) -> str:
        """Return a sentence that names the two sides, the images and the attack."""
        first = self.pairs[0].before
        suites = ", ".join(dict.fromkeys(pair.before.suite for pair in self.pairs if pair.before.suite))
        where = f" of suite {suites}" if suites else ""
        if len(self.pairs) == 1 and not (first.method or self.pairs[0].after.method):
            what = "the two evaluated models"
        elif len(self.pairs) == 1:
            sides = (
                f"{side.name} ({role})" for side, role in ((first, "baseline"), (self.pairs[0].after, "candidate"))
            )
            what = f"the {KIND} checkpoints of {' and '.join(sides)}{where}"
        else:
            names = _shown([pair.name for pair in self.pairs])
            what = f"{len(self.pairs)} pairs of {KIND} checkpoints{where}, baseline and candidate: {names}"
        counts = [int(images) for images in first.counts if images]
        size = f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
        under = f"the union of {', '.join(first.attacks)}" if attack == UNION else attack
        return f"{what}, on {sum(counts)} images, {size} a class, under {under}"


def matched(
    before: Sequence[Entry],
    after: Sequence[Entry],
    *,
    attack: str,
    methods: Sequence[str] | None = None,
    seeds: Sequence[str] | None = None,
) -> Matching:
    """Return a pair for every checkpoint of the baseline, under the newest protocol that both sides have.

    A single checkpoint is compared with the single one of the other side, whatever its name. `methods` and `seeds`
    select checkpoints, by default all of the baseline; "shared" selects those that both sides have, and the method
    "OLD=NEW" compares the baseline's OLD with the candidate's NEW. Other checkpoints of the candidate are left out.
    Raises InvalidInput if a row is missing, if two sides cannot be compared, and for a choice between single
    checkpoints.
    """
    require_choice([*before, *after], [name for name in (*(methods or ()), *(seeds or ())) if name != SHARED])
    renamed = _renamed(methods)
    wanted = None if methods is None or SHARED in methods else (list(renamed), list(renamed.values()))
    picked = None if seeds is None or SHARED in seeds else seeds
    old = chosen("baseline", before, wanted and wanted[0], picked)
    new = chosen("candidate", after, wanted and wanted[1], picked)
    if any(entry.alone for entry in (*old, *new)):
        pairs = [_single_pair(old, new)]
    else:
        pairs = _named_pairs(old, new, renamed, shared=(SHARED in (methods or ()), SHARED in (seeds or ())))
    for pair in pairs:
        require_comparable(pair, attack)
    return Matching(tuple(pairs), tuple(_left_out(before, after, pairs)))


def _renamed(methods: Sequence[str] | None) -> dict[str, str]:
    """Return the candidate's method for each named method of the baseline; raises InvalidInput."""
    renamed: dict[str, str] = {}
    for text in methods or ():
        old, equals, new = text.partition("=")
        if not old or (equals and not new) or old in renamed or (text == SHARED and len(methods or ()) > 1):
            raise InvalidInput(f"methods: expected NAME, OLD=NEW or {SHARED!r} alone, each once, not {text!r}")
        renamed[old] = new or old
    return renamed


def _left_out(before: Sequence[Entry], after: Sequence[Entry], pairs: Sequence[Pair]) -> list[str]:
    """Return sentences that name the checkpoints of either side without a pair."""
    found = []
    for side, entries, used in (
        ("baseline", before, [pair.before for pair in pairs]),
        ("candidate", after, [pair.after for pair in pairs]),
    ):
        held = {(entry.suite, *entry.key): entry.name for entry in sorted(entries, key=lambda one: one.key)}
        rest = [name for key, name in held.items() if key not in {(entry.suite, *entry.key) for entry in used}]
        if rest:
            found.append(f"{len(rest)} of the {side}'s {len(held)} checkpoints: {_shown(rest)}")
    return found


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _single_pair(before: Sequence[Entry], after: Sequence[Entry]) -> Pair:
    """Return the pair of two single checkpoints; a run has an entry for each version of its suite.

    Of several pairs it is one with equal attacks, with the suite's own settings, of the newest version.
    """
    for held in (before, after):
        require_one(held)
    pairs = [Pair(old, new) for old in before for new in after if _same_protocol(old, new)]
    if not pairs:
        raise InvalidInput(
            f"the baseline's protocol is {before[0].protocol}, the candidate's {after[0].protocol}: "
            "figures of two protocols cannot be compared"
        )
    return max(pairs, key=lambda pair: (set(pair.before.attacks) == set(pair.after.attacks), _order(pair.before)))


def _order(entry: Entry) -> tuple[bool, int, str]:
    """The order of a run's protocols: the suite's own settings come after changed ones, the newest version last."""
    return not entry.custom, entry.version, entry.protocol


def _same_protocol(old: Entry, new: Entry) -> bool:
    return not old.protocol or not new.protocol or old.protocol == new.protocol


def _named_pairs(
    before: Sequence[Entry], after: Sequence[Entry], renamed: Mapping[str, str], shared: tuple[bool, bool]
) -> list[Pair]:
    """Return the pair of every checkpoint of the baseline; `shared`: leave out missing methods, missing seeds."""
    if all(shared):
        suites = {entry.suite for entry in after}
        before = [entry for entry in before if entry.suite in suites] or before
    protocols = _common_protocols(before, after)
    wanted, answers = (
        [entry for entry in side if entry.protocol == protocols.get(entry.suite)] for side in (before, after)
    )
    for side in (wanted, answers):
        if len({_key(entry) for entry in side}) < len(side):
            raise InvalidInput("a method and seed occur twice on one side; give a board with one run of each")
    by_key = {_key(entry): entry for entry in answers}
    methods = {key[:3] for key in by_key}

    def answer(entry: Entry) -> tuple[str, str, str, str]:
        return entry.suite, entry.protocol, renamed.get(entry.method, entry.method), entry.seed

    def left_out(entry: Entry) -> bool:
        known = answer(entry)[:3] in methods
        return shared[1] if known else shared[0]

    missing = [entry for entry in wanted if answer(entry) not in by_key]
    required = [entry for entry in missing if not left_out(entry)]
    pairs = [Pair(entry, by_key[answer(entry)]) for entry in wanted if answer(entry) in by_key]
    if required or not pairs:
        _refuse(required or missing, wanted, answers)
    return pairs


def _refuse(missing: Sequence[Entry], wanted: Sequence[Entry], answers: Sequence[Entry]) -> NoReturn:
    """Raise InvalidInput with the missing checkpoints, and with options that compare the existing ones."""
    other = next((entry.method for entry in answers if entry.method not in {one.method for one in wanted}), None)
    how = f"--methods {SHARED} --seeds {SHARED} compares what both have"
    if other is not None:
        how += f", --methods {missing[0].method}={other} compares two methods seed by seed"
        how += ", and two run folders are compared as two checkpoints"
    raise InvalidInput(
        f"missing from the candidate: {_shown(sorted(entry.name for entry in missing))}: "
        f"{len(missing)} of {len(wanted)} rows; {how}"
    )


def _common_protocols(before: Sequence[Entry], after: Sequence[Entry]) -> dict[str, str]:
    """Return for every suite of the baseline the protocol that both sides have: the suite's own, the newest."""
    common = {}
    for suite in dict.fromkeys(entry.suite for entry in before):
        old, new = (sorted((e for e in side if e.suite == suite), key=_order) for side in (before, after))
        ours, theirs = (list(dict.fromkeys(entry.protocol for entry in side)) for side in (old, new))
        shared = [entry.protocol for entry in old if entry.protocol in theirs]
        if not new:
            others = ", ".join(sorted({entry.suite for entry in after}))
            raise InvalidInput(f"missing from the candidate: every row of suite {suite}; it has rows of {others}")
        if not shared:
            raise InvalidInput(
                f"suite {suite}: the baseline's protocol is {', '.join(ours)}, the candidate's {', '.join(theirs)}: "
                "figures of two protocols cannot be compared"
            )
        common[suite] = shared[-1]
    return common


def _key(entry: Entry) -> tuple[str, str, str, str]:
    return entry.suite, entry.protocol, entry.method, entry.seed
