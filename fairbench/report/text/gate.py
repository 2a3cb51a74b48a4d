"""What the gate found: a table for a terminal, Markdown for a pull request, JSON for a script."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

from fairbench.gate.decision import POWER, Outcome

__all__ = ["as_dict", "markdown", "table"]

HEADINGS = ("", "figure", "baseline", "candidate", "drop", "p", "detectable", "test", "verdict")
NUMERIC = {"baseline", "candidate", "drop", "p", "detectable"}


def table(outcome: Outcome) -> str:
    """Render columns aligned for a terminal, the verdict first."""
    rows = [HEADINGS, *_rows(outcome)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if heading in NUMERIC else cell.ljust(width)
            for cell, width, heading in zip(row, widths, HEADINGS, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join([_headline(outcome), "", *lines, "", *_footer(outcome)])


def markdown(outcome: Outcome) -> str:
    """Render for a pull-request comment; names are escaped."""
    rule = ["---:" if heading in NUMERIC else "---" for heading in HEADINGS]
    rows = [HEADINGS, rule, *([_escape(cell) for cell in row] for row in _rows(outcome))]
    body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"### {_headline(outcome)}", "", *body, "", *(f"- {line}" for line in _footer(outcome))])


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """Everything, JSON-ready: fractions, not percent."""
    return {
        "passed": outcome.passed,
        "attack": outcome.attack,
        "max_drop": outcome.max_drop,
        "alpha": outcome.alpha,
        "power": POWER,
        "detectable": round(outcome.detectable, 4),
        "checks": [
            {
                "name": one.name,
                "figure": one.figure,
                "baseline": round(one.before, 4),
                "candidate": round(one.after, 4),
                "drop": round(one.drop, 4),
                "p": float(f"{one.p:.4g}"),
                "detectable": round(one.detectable, 4),
                "test": one.test,
                "failed": one.failed,
            }
            for one in outcome.checks
        ],
        "findings": [
            {
                "name": one.name,
                "figure": one.figure,
                "baseline": one.before,
                "candidate": one.after,
                "failed": one.failed,
            }
            for one in outcome.findings
        ],
        "notes": list(outcome.notes),
    }


def _rows(outcome: Outcome) -> Iterator[tuple[str, ...]]:
    for one in outcome.checks:
        figures = (f"{100 * one.before:.1f}", f"{100 * one.after:.1f}", f"{100 * one.drop:+.1f}")
        chance = "<0.0001" if one.p < 1e-4 else f"{one.p:.4f}"
        verdict = "REGRESSION" if one.failed else "ok"
        found = f"{100 * one.detectable:.1f}" if one.detectable < 1 else "none"
        yield (_plain(one.name), _plain(one.figure), *figures, chance, found, one.test, verdict)
    for other in outcome.findings:
        verdict = "REGRESSION" if other.failed else "ok"
        yield (_plain(other.name), other.figure, _plain(other.before), _plain(other.after), "", "", "", "", verdict)


def _headline(outcome: Outcome) -> str:
    failed = sum(one.failed for one in outcome.checks) + sum(one.failed for one in outcome.findings)
    total = len(outcome.checks) + len(outcome.findings)
    what = f"{failed} of {total} checks regressed" if failed else f"no regression in {total} check{'s'[: total > 1]}"
    return f"fairness gate: {'FAILED' if failed else 'passed'}, {what}"


def _footer(outcome: Outcome) -> list[str]:
    asked = (
        f'tested under {_plain(outcome.attack)}: "the drop is at most {100 * outcome.max_drop:g} points", '
        f"one-sided at alpha {outcome.alpha:g}; figures in percent"
    )
    if outcome.detectable < 1:
        limit = f"a true drop of {100 * outcome.detectable:.1f} points would have been found in every row"
    else:
        limit = "in some row no drop at all would have been found"
    return [asked, f"{limit} (power {POWER:.0%})", *outcome.notes]


def _plain(text: str) -> str:
    """Text on one line, without characters that steer a terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text)


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_\[\]|@#])", r"\\\1", html.escape(text, quote=False))
