"""Has robustness regressed from a baseline to a candidate: pass, fail, or not to be compared.

The tests, what they assume, and how often they are wrong are in docs/gate.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fairbench.errors import InvalidInput
from fairbench.evaluation.verdicts import UNION
from fairbench.gate.checks import METRICS, POWER, Check, by_checkpoint, by_method
from fairbench.gate.entry import COSTS, Entry, from_report
from fairbench.gate.evidence import read
from fairbench.gate.pairs import Pair, chosen, matched, require_one
from fairbench.statistics.significance import holm

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import nn

    from fairbench.data.dataset import Dataset

__all__ = ["METRICS", "POWER", "Check", "Finding", "Outcome", "check", "check_model"]

Unit = Literal["checkpoint", "method"]


@dataclass(frozen=True)
class Finding:
    """Something that needs no statistics: red flags or a cost, before and after."""

    name: str
    figure: str
    before: str
    after: str
    failed: bool


@dataclass(frozen=True)
class Outcome:
    """What the gate found, with what it was asked; max_drop is a fraction."""

    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    attack: str
    max_drop: float
    alpha: float

    @property
    def passed(self) -> bool:
        """Whether nothing has regressed."""
        return not (any(one.failed for one in self.checks) or any(one.failed for one in self.findings))

    @property
    def detectable(self) -> float:
        """The smallest true drop that every check would have found with power 80 %, a fraction."""
        return max(one.detectable for one in self.checks)

    def require_detectable(self, points: float) -> None:
        """Raise InvalidInput when a true drop of this many points could have gone unnoticed."""
        if not points > 0:
            raise InvalidInput(f"the smallest drop to detect must be more than 0 points, not {points:g}")
        if 100 * self.detectable > points:
            least = max(self.checks, key=lambda one: one.detectable)
            raise InvalidInput(
                f"too small to decide: {least.name}, {least.figure}: only a drop of {100 * least.detectable:.1f} "
                f"points would be found with power {POWER:.0%}, {points:g} are required; use more images or seeds"
            )


def check(
    baseline: str | Path | Sequence[Entry],
    candidate: str | Path | Sequence[Entry],
    *,
    max_drop: float = 2.0,
    metric: str | Sequence[str] = "worst",
    attack: str = UNION,
    alpha: float = 0.05,
    max_slowdown: float | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[str] | None = None,
    unit: Unit = "checkpoint",
) -> Outcome:
    """Test whether a candidate is less robust than a baseline by more than max_drop percentage points.

    Both are what `evidence.read` reads, or entries. `metric` is one or several of METRICS; of all that is checked the
    chance of any false alarm is at most alpha (Holm). With unit "method" the seed is the unit, of which it needs three.
    Red flags that were not red, and training cost beyond max_slowdown times the baseline's, fail too. Raises
    InvalidInput for what cannot be compared: another protocol, threat, data set, class or test image, a missing row.
    """
    metrics = _metrics([metric] if isinstance(metric, str) else metric)
    if not 0 <= max_drop < 100 or not 0 < alpha < 1 or unit not in ("checkpoint", "method"):
        raise InvalidInput(f"max drop {max_drop:g} points, alpha {alpha:g}, unit {unit!r}: out of range")
    before, after = (_entries(side, attack) for side in (baseline, candidate))
    pairs = matched(before, after, attack=attack, methods=methods, seeds=seeds)
    build = by_method if unit == "method" else by_checkpoint
    checks = build(pairs, metrics, max_drop / 100, alpha)
    adjusted = holm([one.p for one in checks])
    checks = [replace(one, p=float(p), failed=bool(p <= alpha)) for one, p in zip(checks, adjusted, strict=True)]
    findings = [found for pair in pairs for found in _flags(pair)]
    if max_slowdown is not None:
        findings += [found for pair in pairs for found in _costs(pair, max_slowdown)]
    notes = _notes(pairs, len(checks), unit)
    return Outcome(tuple(checks), tuple(findings), tuple(notes), attack, max_drop / 100, alpha)


def check_model(
    model: nn.Module | str | Path,
    dataset: str | Dataset | tuple[Any, ArrayLike],
    baseline: str | Path,
    *,
    attack: str = UNION,
    method: str | None = None,
    seed: int | None = None,
    norm: str | None = None,
    eps: float | None = None,
    batch_size: int = 250,
    device: str | None = None,
    flags: bool = True,
    **options: Any,
) -> Outcome:
    """Evaluate a model under the baseline's attacks and threat, and test whether it is less robust than the baseline.

    Model and dataset are those of `fairbench.evaluate`; method and seed choose from a baseline of several checkpoints;
    norm and eps are only needed where the baseline names no threat, as a CSV without its results does. Without `flags`
    the sanity checks are left out, which a baseline that has them refuses. `options` are those of `check`. Raises what
    `evaluate` and `check` do.
    """
    from fairbench.evaluation.evaluate import evaluate

    wanted = None if method is None else [method], None if seed is None else [str(seed)]
    entries = chosen("baseline", read(baseline, attack), *wanted)
    require_one(entries)
    newest = max(entries, key=lambda entry: entry.version)
    threat = newest.threat
    if norm is not None or eps is not None or threat is None:
        if norm is None or eps is None:
            raise InvalidInput(f"{baseline}: names no threat model: give norm and eps, both")
        threat = norm, float(eps)
    attacks = newest.attacks if attack == UNION else (attack,)
    report = evaluate(
        model,
        dataset,
        attacks=attacks,
        norm=threat[0],
        eps=threat[1],
        batch_size=batch_size,
        device=device,
        flags=flags,
    )
    known = replace(newest, threat=newest.threat or threat)
    return check([known], [from_report(report, attack)], attack=attack, **options)


def _flags(pair: Pair) -> list[Finding]:
    before, after = pair.before.flags, pair.after.flags
    if after is None:
        if before is None:
            return []
        raise InvalidInput(f"{pair.name}: flags were checked on the baseline, not on the candidate")
    turned = after - (before or frozenset())
    if not turned and not before:
        return []
    old, new = ("not checked" if flags is None else ", ".join(sorted(flags)) or "none red" for flags in (before, after))
    return [Finding(pair.name, "flags", old, new, failed=bool(turned))]


def _costs(pair: Pair, limit: float) -> list[Finding]:
    if not limit > 0:
        raise InvalidInput(f"the slowdown allowed must be a positive factor, not {limit:g}")
    if pair.before.hardware != pair.after.hardware:
        raise InvalidInput(
            f"{pair.name}: cost was measured on {pair.before.hardware or 'unknown hardware'}, "
            f"now on {pair.after.hardware or 'unknown hardware'}"
        )
    found = []
    for cost in COSTS:
        old, new = pair.before.costs.get(cost, 0.0), pair.after.costs.get(cost)
        if old <= 0 or new is None:
            raise InvalidInput(f"{pair.name}: no {cost} on the {'candidate' if old > 0 else 'baseline'} to compare")
        found.append(Finding(pair.name, cost, f"{old:.4g}", f"{new:.4g}", failed=new > limit * old))
    return found


def _notes(pairs: Sequence[Pair], checks: int, unit: str) -> list[str]:
    notes = []
    if unit == "checkpoint":
        if any(pair.both is None for pair in pairs):
            notes.append("two-sample: without both sides' verdicts the images count as two independent samples")
        notes.append("the unit is the image: this speaks of these checkpoints, not of another seed")
    if checks > 1:
        notes.append(f"p is adjusted for {checks} checks (Holm)")
    if all(pair.after.flags is None for pair in pairs):
        notes.append("flags were not checked on either side")
    return notes


def _metrics(asked: Sequence[str]) -> list[str]:
    unknown = [name for name in asked if name not in METRICS]
    if unknown or not asked:
        raise InvalidInput(f"metric must be of {', '.join(METRICS)}, not {unknown[0] if unknown else 'empty'!r}")
    return list(dict.fromkeys(asked))


def _entries(side: str | Path | Sequence[Entry], attack: str) -> list[Entry]:
    return read(side, attack) if isinstance(side, str | Path) else list(side)
