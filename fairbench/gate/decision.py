"""The gate's decision: whether robustness has regressed from a baseline to a candidate.

docs/gate.md describes the tests, their assumptions and their error rates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fairbench.errors import InvalidInput
from fairbench.evaluation.verdicts import UNION
from fairbench.gate import flags_and_costs, levels
from fairbench.gate.checks import METRICS, POWER, Check, by_checkpoint, by_method, judged
from fairbench.gate.entry import Entry, from_report
from fairbench.gate.evidence import read_evidence
from fairbench.gate.flags_and_costs import Finding
from fairbench.gate.matching import Matching, matched
from fairbench.gate.pairs import chosen, require_choice, require_one
from fairbench.suites.sections import BATCH_SIZE

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import nn

    from fairbench.data.dataset import Dataset

__all__ = ["Outcome", "check", "check_model"]

Unit = Literal["checkpoint", "method"]


@dataclass(frozen=True)
class Outcome:
    """The result of a gate with its settings.

    max_drop is a fraction, alpha the level of this call. `compared`, `left_out` and `notes` are sentences. `pin`
    identifies the figures of the baseline that were compared.
    """

    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    attack: str
    max_drop: float
    alpha: float
    compared: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pin: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing has regressed."""
        return not (any(one.failed for one in self.checks) or any(one.failed for one in self.findings))

    @property
    def decidable(self) -> bool:
        """Whether any of the tested figures could have failed."""
        return any(one.can_fail for one in self.checks)

    @property
    def detectable(self) -> float:
        """The smallest true drop, a fraction, that every check detects with power 80 %; infinite if there is none."""
        return max(one.detectable for one in self.checks)

    def require_decidable(self) -> None:
        """Raise InvalidInput if the gate passes because no check could fail."""
        if self.passed and not self.decidable:
            raise InvalidInput(
                f"no check could fail: each figure of the baseline is so low, or has so few images or seeds, that even "
                f"a fall to 0 would not be a significant drop of more than {100 * self.max_drop:g} points"
            )

    def require_detectable(self, points: float) -> None:
        """Raise InvalidInput if a check does not detect a true drop of this many points with power 80 %."""
        if not 0 < points < math.inf:
            raise InvalidInput(f"the smallest drop to detect must be more than 0 points and finite, not {points!s:.20}")
        if 100 * self.detectable <= points:
            return
        least = max(self.checks, key=lambda one: one.detectable)
        found = (
            f"no drop from {100 * least.before:.1f} % would be found with power {POWER:.0%}"
            if math.isinf(least.detectable)
            else f"only a drop of {100 * least.detectable:.1f} points would be found with power {POWER:.0%}"
        )
        raise InvalidInput(
            f"too small to decide: {least.name}, {least.figure}: {found}, but the smallest drop to detect is "
            f"{min(points, 1e9):g} points; use more images or seeds"
        )


def check(
    baseline: str | Path | Sequence[Entry],
    candidate: str | Path | Sequence[Entry],
    *,
    max_drop: float = 2.0,
    metric: str | Sequence[str] = METRICS,
    attack: str = UNION,
    alpha: float = 0.05,
    max_slowdown: float | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[str] | None = None,
    unit: Unit = "checkpoint",
    runs: int = 1,
    pin: str | None = None,
) -> Outcome:
    """Test whether a candidate is less robust than a baseline by more than max_drop percentage points.

    Both are paths that `read_evidence` reads, or entries. `metric` is one or several of METRICS, by default all: the
    worst class, the average and every class. The probability of any false alarm among the tested figures is at most
    alpha, which `levels.SHARES` divides. For a gate that is planned to run `runs` times against one baseline, this
    holds for all runs together. A flag that turned red fails without a test, and so does a training cost beyond
    max_slowdown times the baseline's. With unit "method" the unit is the seed, and three seeds are needed. `methods`
    and `seeds` are those of `matching.matched`. `pin` is the `Outcome.pin` that the baseline must have.

    Raises InvalidInput for a number out of range, and if the two sides cannot be compared: another protocol, threat,
    dataset, class or test image, a missing row, or a baseline other than the pinned one.
    """
    metrics = _metrics([metric] if isinstance(metric, str) else metric)
    if not 0 <= max_drop < 100:
        raise InvalidInput(f"the drop allowed must be at least 0 and less than 100 points, not {max_drop!s:.20}")
    if not 0 < alpha < 1:
        raise InvalidInput(f"alpha must be more than 0 and less than 1, not {alpha!s:.20}")
    if unit not in ("checkpoint", "method"):
        raise InvalidInput(f"unit must be checkpoint or method, not {unit!r:.40}")
    level = levels.spent(alpha, runs)
    before = _entries(baseline, attack)
    after = before if candidate == baseline else _entries(candidate, attack)  # one board is read once
    matching = matched(before, after, attack=attack, methods=methods, seeds=seeds)
    found = matching.pin
    if pin is not None and pin != found:
        raise InvalidInput(f"the baseline's figures are those of pin {found}, not those of the pinned baseline, {pin}")
    build = by_method if unit == "method" else by_checkpoint
    checks = judged(build(matching.pairs, metrics, max_drop / 100, level), level)
    seen = flags_and_costs.flags(matching.pairs)
    if max_slowdown is not None:
        seen += flags_and_costs.costs(matching.pairs, max_slowdown)
    return Outcome(
        tuple(checks),
        tuple(seen),
        attack,
        max_drop / 100,
        level,
        compared=(matching.compared(attack),),
        left_out=matching.left_out,
        notes=tuple(_notes(matching, checks, unit, alpha, runs)),
        pin=found,
    )


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
    batch_size: int = BATCH_SIZE,
    device: str | None = None,
    flags: bool = True,
    **options: Any,
) -> Outcome:
    """Evaluate a model under the baseline's attacks and threat model, and test it against the baseline.

    Model and dataset are those of `fairbench.evaluate`; method and seed select one checkpoint of the baseline; norm and
    eps are only needed if the baseline names no threat model, such as a CSV without its results. Without `flags` the
    sanity checks are skipped; a baseline that has flags then raises InvalidInput. `options` are those of `check`.
    Raises the errors of `evaluate` and `check`.
    """
    from fairbench.evaluation.evaluate import evaluate

    wanted = None if method is None else [method], None if seed is None else [str(seed)]
    held = read_evidence(baseline, attack)
    require_choice(held, [name for names in wanted for name in names or ()])
    entries = chosen("baseline", held, *wanted)
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


def _notes(matching: Matching, checks: Sequence[Check], unit: str, alpha: float, runs: int) -> list[str]:
    notes = []
    if unit == "checkpoint":
        if any(pair.both is None for pair in matching.pairs):
            notes.append(
                "two-sample: one side has no prediction of each image, so the images count as two independent samples, "
                "which finds only large drops"
            )
        notes.append(
            "the tests are over images: they are about these checkpoints, not about a training with another seed"
        )
    if len(checks) > 1:
        notes.append(f"p is adjusted for {len(checks)} checks (Holm's method, weighted by their shares of alpha)")
    if runs > 1:
        notes.append(f"one of {runs} planned runs: alpha {alpha:g} holds for all of them together")
    if all(pair.after.flags is None for pair in matching.pairs):
        notes.append("the sanity checks, whose red flags fail the gate, ran on neither side")
    else:
        notes.append("a red flag that the baseline lacks fails the gate without a test; alpha does not cover it")
    return notes


def _metrics(asked: Sequence[str]) -> list[str]:
    unknown = [name for name in asked if name not in METRICS]
    if unknown or not asked:
        raise InvalidInput(f"metric must be one of {', '.join(METRICS)}, not {unknown[0] if unknown else 'empty'!r}")
    return list(dict.fromkeys(asked))


def _entries(side: str | Path | Sequence[Entry], attack: str) -> list[Entry]:
    return read_evidence(side, attack) if isinstance(side, str | Path) else list(side)
