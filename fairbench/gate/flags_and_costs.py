"""Comparisons of the gate without statistics: red flags and training costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fairbench.errors import InvalidInput
from fairbench.gate.entry import COSTS
from fairbench.gate.pairs import Pair

__all__ = ["Finding", "costs", "flags"]

MAX_SLOWDOWN = 1e9


@dataclass(frozen=True)
class Finding:
    """Red flags or a cost, before and after; they are not tested, so alpha does not cover them."""

    name: str
    figure: str
    before: str
    after: str
    failed: bool


def flags(pairs: Sequence[Pair]) -> list[Finding]:
    """Return a finding for every pair with red flags; it fails if a flag was not red before.

    Raises InvalidInput if flags were checked on the baseline alone.
    """
    return [found for pair in pairs for found in _flags(pair)]


def costs(pairs: Sequence[Pair], limit: float) -> list[Finding]:
    """Return the training costs of every pair; a cost above `limit` times the baseline's fails.

    Raises InvalidInput if a cost is unknown or was measured on other hardware, and for a limit that is not positive.
    """
    if not 0 < limit <= MAX_SLOWDOWN:
        raise InvalidInput(f"the slowdown allowed must be a positive factor up to 1e9, not {limit!s:.20}")
    return [found for pair in pairs for found in _costs(pair, limit)]


def _flags(pair: Pair) -> list[Finding]:
    before, after = pair.before.flags, pair.after.flags
    if after is None:
        if before is None:
            return []
        raise InvalidInput(f"{pair.name}: flags were checked on the baseline, not on the candidate")
    turned = after - (before or frozenset())
    if not turned and not before:
        return []
    old, new = ("not checked" if reds is None else ", ".join(sorted(reds)) or "none red" for reds in (before, after))
    return [Finding(pair.name, "flags", old, new, failed=bool(turned))]


def _costs(pair: Pair, limit: float) -> list[Finding]:
    if pair.before.hardware != pair.after.hardware:
        raise InvalidInput(
            f"{pair.name}: cost was measured on {pair.before.hardware or 'unknown hardware'}, "
            f"now on {pair.after.hardware or 'unknown hardware'}"
        )
    found = []
    for cost in COSTS:
        old, new = pair.before.costs.get(cost, 0.0), pair.after.costs.get(cost)
        if old <= 0 or new is None:
            side, entry = ("candidate", pair.after) if old > 0 else ("baseline", pair.before)
            why = entry.costs_lack or "runs and leaderboards have it"
            raise InvalidInput(f"{pair.name}: no {cost} on the {side} to compare; {why}")
        found.append(Finding(pair.name, cost, f"{old:.4g}", f"{new:.4g}", failed=new > limit * old))
    return found
