"""The outcome of the gate as a table for a terminal, as Markdown for a pull request and as JSON for a script."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from fairbench.gate.checks import POWER, Check
from fairbench.gate.decision import Outcome
from fairbench.report.text.sheet import Sheet, plain_columns
from fairbench.report.text.stdout import wrapped

__all__ = ["as_dict", "gate_markdown", "gate_table"]

HEADINGS = ("run", "figure", "baseline", "candidate", "drop", "p", "detectable", "test", "verdict")
NUMERIC = {"baseline", "candidate", "drop", "p", "detectable"}
# Columns in the order in which a narrow terminal drops them. Run, figure and verdict always stay.
DROPPED = ("test", "detectable", "p", "drop", "baseline", "candidate")
SHOWN = 5
NUMBER = re.compile(r"([-+<]?[0-9]+[.][0-9]+)?")
# Text that GitHub shows unchanged: without markup, mention, reference to an issue or address.
HARMLESS = re.compile(r"(?!.*(?:://|www\.|GH-))[^@#<>&\[\]|*_`\\~$!]*", re.IGNORECASE)


def gate_table(outcome: Outcome) -> str:
    """Render aligned columns that fit the terminal, with the verdict first; a pipe gets all columns."""
    headings = [(heading, heading not in NUMERIC) for heading in HEADINGS]
    sheet = Sheet("", headings, list(_rows(outcome)), list(_sentences(outcome)), DROPPED, "figure")
    return "\n".join([wrapped(_headline(outcome)), "", plain_columns(sheet)])


def gate_markdown(outcome: Outcome) -> str:
    """Render for a pull-request comment.

    Names come from files that strangers may have written. They stand in code spans, in which GitHub resolves no link,
    mention, reference or HTML.
    """
    rule = ["---:" if heading in NUMERIC else "---" for heading in HEADINGS]
    body = [HEADINGS, rule, *map(_marked, _rows(outcome))]
    lines = [f"| {' | '.join(row)} |" for row in body]
    sentences = [f"- {_prose(line)}" for line in _sentences(outcome)]
    return "\n".join([f"### {_headline(outcome)}", "", *lines, "", *sentences])


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome, JSON-ready; figures are fractions, and `detectable` is None where no drop is detectable."""
    return {
        "passed": outcome.passed and outcome.decidable,
        "decidable": outcome.decidable,
        "attack": outcome.attack,
        "max_drop": outcome.max_drop,
        "alpha": outcome.alpha,
        "power": POWER,
        "pin": outcome.pin,
        "detectable": _finite(outcome.detectable),
        "checks": [
            {
                "name": one.name,
                "figure": one.figure,
                "baseline": round(one.before, 4),
                "candidate": round(one.after, 4),
                "drop": round(one.drop, 4),
                "p": float(f"{one.p:.4g}"),
                "share": float(f"{one.share:.4g}"),
                "detectable": _finite(one.detectable),
                "test": one.test,
                "can_fail": one.can_fail,
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
        "compared": list(outcome.compared),
        "left_out": list(outcome.left_out),
        "notes": list(outcome.notes),
    }


def _rows(outcome: Outcome) -> Iterator[Sequence[str]]:
    for one in outcome.checks:
        figures = (f"{100 * one.before:.1f}", f"{100 * one.after:.1f}", f"{100 * one.drop:+.1f}")
        chance = "<0.0001" if one.p < 1e-4 else f"{one.p:.4f}"
        verdict = "REGRESSION" if one.failed else "ok" if one.can_fail else "CANNOT FAIL"
        yield (_plain(one.name), _plain(one.figure), *figures, chance, _points(one.detectable), one.test, verdict)
    for other in outcome.findings:
        verdict = "REGRESSION" if other.failed else "ok"
        yield (_plain(other.name), other.figure, _plain(other.before), _plain(other.after), "", "", "", "", verdict)


def _headline(outcome: Outcome) -> str:
    failed = sum(one.failed for one in outcome.checks) + sum(one.failed for one in outcome.findings)
    total = len(outcome.checks) + len(outcome.findings)
    idle = sum(not one.can_fail for one in outcome.checks)
    if failed:
        return f"fairness gate: FAILED, {failed} of {total} checks regressed"
    if not outcome.decidable:
        return "fairness gate: NO VERDICT, no check could fail"
    done = total - idle
    aside = f", {idle} more could NOT FAIL" if idle else ""
    return f"fairness gate: passed, no regression in {done} check{'s'[: done > 1]}{aside}"


def _sentences(outcome: Outcome) -> list[str]:
    """Sentences on what was compared, found, not testable and left out, and on the test itself."""
    failed = [one for one in outcome.checks if one.failed]
    idle = [one for one in outcome.checks if not one.can_fail]
    lines = [f"compared: {sentence}" for sentence in outcome.compared]
    if failed:
        lines.append(f"found: {_some([_found(one) for one in sorted(failed, key=lambda one: -one.drop)])}")
    else:
        lines.append(
            f"found: no figure fell by more than {100 * outcome.max_drop:g} points and more than chance explains"
        )
    lines += [f"found: {one.name}, {one.figure}: {one.before} -> {one.after}" for one in outcome.findings if one.failed]
    if idle:
        lines.append(
            "could not fail, because even a fall to 0 would pass: "
            f"{_some([f'{one.name}, {one.figure} ({100 * one.before:.1f} %)' for one in idle])}"
        )
    lines += [f"left out: {sentence}" for sentence in outcome.left_out]
    lines.append(
        f"tested for each figure: that it fell by at most {100 * outcome.max_drop:g} points, one-sided, alpha "
        f"{outcome.alpha:.3g} for all figures together; accuracies in percent, drops in points (negative: a gain)"
    )
    lines.append(_power(outcome.checks))
    if outcome.pin:
        lines.append(f"pin of the baseline: {outcome.pin}")
    return [_plain(line) for line in (*lines, *outcome.notes)]


def _power(checks: Sequence[Check]) -> str:
    found = f"detectable with probability {100 * POWER:.0f} %"
    blind = sum(math.isinf(one.detectable) for one in checks)
    if blind:
        return f"{found}: no possible drop in {blind} of {len(checks)} rows"
    most = max(one.detectable for one in checks)
    return f"{found}: a true drop of {100 * most:.1f} points in every row"


def _found(one: Check) -> str:
    return f"{one.name}, {one.figure} fell from {100 * one.before:.1f} to {100 * one.after:.1f} %"


def _some(parts: Sequence[str]) -> str:
    return "; ".join(parts[:SHOWN]) + (f"; and {len(parts) - SHOWN} more" if len(parts) > SHOWN else "")


def _points(fraction: float) -> str:
    return "none" if math.isinf(fraction) else f"{100 * fraction:.1f}"


def _finite(fraction: float) -> float | None:
    return None if math.isinf(fraction) else round(fraction, 4)


def _marked(row: Sequence[str]) -> list[str]:
    """A row in Markdown: every cell in a code span except numbers and the verdict."""
    *cells, verdict = row
    return [*(cell if NUMBER.fullmatch(cell) else _code(cell) for cell in cells), verdict]


def _plain(text: str) -> str:
    """The text on one line, without control characters and without marks that change the writing direction."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _prose(line: str) -> str:
    """The line, in a code span unless it contains no markup."""
    return line if HARMLESS.fullmatch(line) else _code(line)


def _code(text: str) -> str:
    """The text as a code span with a fence that its content cannot close; bars are escaped for the table."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, pad = "`" * (longest + 1), " " if "`" in text or text != text.strip() else ""
    return f"{fence}{pad}{text}{pad}{fence}".replace("|", r"\|")
