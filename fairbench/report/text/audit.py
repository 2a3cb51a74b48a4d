"""The audit of one checkpoint as text for a terminal: its figures, its classes with the worst first, and its flags."""

from __future__ import annotations

import pandas as pd
from rich.markup import escape
from rich.table import Table

from fairbench.evaluation.report import Report
from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard.classes import with_shared
from fairbench.report.text.cells import interval_in_percent, three_decimals
from fairbench.report.text.stdout import as_text, wrapped

__all__ = ["headline", "render_report"]

_CRAFTED = {"plain": "adversarial images are crafted with the network itself"}
_COPY = "adversarial images are crafted with a faster copy of the network, and judged by the network itself"


def headline(report: Report) -> str:
    """Name the worst class, or the first of several, its robust accuracy under all attacks, and the average."""
    union = report.summary()
    named, others = report.class_names[union.worst_class], union.worst_shared
    if others:
        named += f" and {others} other{'s that are' if others > 1 else ' that is'} as low"
    return (
        f"Worst class: {named}, {_percent(union.worst)} robust under all attacks "
        f"(95 % CI {100 * union.worst_lo:.1f} to {_percent(union.worst_hi)}); average {_percent(union.average)}"
    )


def render_report(report: Report) -> str:
    """Render a report: the headline, every attack's figures, the classes with the worst first, and the flags."""
    attacks = Table("attack", "average %", "worst class %", "class", "NSD")
    for attack in [*report.verdicts, UNION]:
        found = report.summary(attack)
        average = interval_in_percent(found.average, found.average_lo, found.average_hi)
        worst = interval_in_percent(found.worst, found.worst_lo, found.worst_hi)
        name = with_shared(report.class_names[found.worst_class], found.worst_shared)
        cells = (average, worst, escape(name), three_decimals(found.nsd))
        attacks.add_row(escape(attack), *cells, style="bold" if attack == UNION else "")
    classes = Table("class", "n", *(escape(attack) for attack in report.verdicts), UNION)
    frame = report.per_class.sort_values(UNION)
    for label, row in frame.iterrows():
        figures = [_percent(row[attack]) for attack in [*report.verdicts, UNION]]
        classes.add_row(escape(str(label)), str(int(row["n"])), *figures)
    red = [name for name, flag in report.flags.items() if flag.red]
    said = [f"{headline(report)} ({report.summary().n} images)"]
    said += [f"Red flags: {', '.join(red)}. The robust accuracies may be too high."] if red else []
    said += [report.strength, *(f"Note: {remark}" for remark in (report.subset, *report.remarks) if remark)]
    return "\n".join([*map(wrapped, said), as_text(attacks), as_text(classes), _flags(report)])


def _flags(report: Report) -> str:
    """A table of the sanity checks that marks the red ones."""
    if not report.flags:
        return "Sanity checks: not run."
    checks = Table("sanity check", "value", "flag")
    for name, flag in report.flags.items():
        checks.add_row(name, f"{flag.value:.4g}", "red" if flag.red else "", style="bold red" if flag.red else "")
    said = (
        f"Sanity checks on the first images of every class, {report.flagged} in all; "
        f"{_CRAFTED.get(report.verdicts.engine, _COPY)}"
    )
    return f"{wrapped(said)}\n{as_text(checks)}"


def _percent(value: float) -> str:
    return "-" if pd.isna(value) else f"{100 * value:.1f} %"
