"""Text tables for a terminal: the leaderboard of a suite, and the audit of one checkpoint."""

from __future__ import annotations

import io
import sys
import textwrap

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fairbench.evaluation.report import Report
from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard.ranking import over_seeds, ranking
from fairbench.leaderboard.unrounded import unrounded
from fairbench.report.text.width import terminal_width

__all__ = ["as_text", "encodable", "headline", "leaderboard", "render_report", "wrapped"]


def leaderboard(board: pd.DataFrame, *, ranked: bool = True) -> str:
    """Render a board: a block per method, ranked by the worst class under the union, a row per attack.

    Figures are in percent: of a single run with its 95 % interval, over several seeds with the standard deviation. Rows
    of smoke tests have no rank, and neither has a board that is not `ranked` because its settings are not the suite's.
    Methods without a rank come after those with one, teachers last.
    """
    board = unrounded(board)
    table = Table(title=_title(board), title_justify="left")
    for heading, side in (("#", "right"), ("method", "left"), ("checkpoint", "left"), ("attack", "left")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for heading in ("average %", "worst class %", "class", "NSD"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    places = ranking(board, ranked=ranked)
    for method, rank in zip(places["method"], places["rank"], strict=True):
        rows = board[(board["method"] == method) & (board["checkpoint"] == "best")]
        for number, attack in enumerate(dict.fromkeys(rows["attack"])):
            cells = _cells(rows[rows["attack"] == attack])
            first = number == 0
            place = str(rank) if first and not pd.isna(rank) else ""
            name = escape(f"{method}{_red(rows)}") if first else ""
            table.add_row(place, name, "best" if first else "", escape(attack), *cells, style=_style(attack))
        table.add_section()
    return as_text(table)


def headline(report: Report) -> str:
    """Name the worst class, its robust accuracy under all attacks with its confidence interval, and the average."""
    union = report.summary()
    return (
        f"Worst class: {report.class_names[union.worst_class]}, {_percent(union.worst)} robust under all attacks "
        f"(95 % CI {100 * union.worst_lo:.1f} to {_percent(union.worst_hi)}); average {_percent(union.average)}"
    )


def render_report(report: Report) -> str:
    """Render a report: the headline, every attack's figures, the classes with the worst first, and the flags."""
    attacks = Table("attack", "average %", "worst class %", "class", "NSD")
    for attack in [*report.verdicts, UNION]:
        found = report.summary(attack)
        average = _interval(found.average, found.average_lo, found.average_hi)
        worst = _interval(found.worst, found.worst_lo, found.worst_hi)
        cells = (average, worst, escape(report.class_names[found.worst_class]), _number(found.nsd))
        attacks.add_row(escape(attack), *cells, style=_style(attack))
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
        f"adversarial images crafted with: {report.verdicts.engine}"
    )
    return f"{wrapped(said)}\n{as_text(checks)}"


def _red(rows: pd.DataFrame) -> str:
    """The sanity checks that are red in any run, as a suffix of the method's name."""
    texts = list(rows["flags"].dropna()) if "flags" in rows else []
    red = dict.fromkeys(name for text in texts for name in str(text).split(";") if name not in ("", "none"))
    return f" (red flag: {', '.join(red)})" if red else ""


def _cells(rows: pd.DataFrame) -> tuple[str, str, str, str]:
    runs = rows[~rows["seed"].isin(["mean", "std"])]
    if len(runs) == 1:
        row = runs.iloc[0]
        average = _interval(row["average"], row["average_lo"], row["average_hi"])
        return (
            average,
            _interval(row["worst"], row["worst_lo"], row["worst_hi"]),
            escape(row["worst_class"]),
            _number(row["nsd"]),
        )
    mean, std = (figures.iloc[0] for figures in over_seeds(rows, ["average", "worst", "nsd"]))
    spread = [f"{100 * mean[name]:.1f} ± {100 * std[name]:.1f}" for name in ("average", "worst")]
    classes = ", ".join(dict.fromkeys(runs["worst_class"]))
    return spread[0], spread[1], escape(classes), f"{mean['nsd']:.3f} ± {std['nsd']:.3f}"


def _title(board: pd.DataFrame) -> str:
    first = board.iloc[0]
    seeds = board[~board["seed"].isin(["mean", "std"])]["seed"].nunique()
    kind = " (quick: a smoke test, not ranked)" if bool(first["quick"]) else ""
    return (
        f"{escape(str(first['suite']))}{kind}: dataset {escape(str(first['dataset']))}, protocol {first['protocol']}, "
        f"{seeds} seed{'s' if seeds > 1 else ''}, n = {first['n']}"
    )


def _style(attack: str) -> str:
    return "bold" if attack == UNION else ""


def _interval(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _percent(value: float) -> str:
    return "-" if pd.isna(value) else f"{100 * value:.1f} %"


def _number(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}"


def as_text(*renderables: Table) -> str:
    """Render for stdout: in colour on a terminal, plain and wide elsewhere. Long cells are folded, never truncated."""
    terminal = sys.stdout.isatty()
    for table in renderables:
        for column in table.columns:
            column.overflow = "fold"
    # The encoding of the output decides whether rich draws boxes in Unicode or in ASCII.
    output = io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding or "utf-8")
    # Without a height rich takes any dumb terminal, as of an editor or of CI, to be 80 columns wide.
    console = Console(
        file=output,
        width=terminal_width(),
        height=25,
        force_terminal=terminal,
        color_system="auto" if terminal else None,
    )
    with console.capture() as capture:
        console.print(*renderables)
    lines = [line.rstrip() for line in capture.get().rstrip("\n").split("\n")]
    return encodable("\n".join(lines))


def wrapped(text: str) -> str:
    """Wrap a sentence between words at the width of the terminal; a pipe gets it on one line."""
    if not sys.stdout.isatty():
        return encodable(text)
    lines = textwrap.wrap(text, terminal_width(), break_long_words=False, break_on_hyphens=False)
    return encodable("\n".join(lines))


def encodable(text: str) -> str:
    """Replace ±, × and – by ASCII of the same width where the encoding of stdout lacks them."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return text.replace(" ± ", " +-").replace("×", "x").replace("–", "-")
    return text
