"""A sheet: a title, headings, cells and notes; written for a terminal, as markdown or as LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from fairbench.report.text.table import as_text

__all__ = ["Sheet", "latex", "markdown", "render", "text"]

_MARKDOWN = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_{}[]<>#|~$&"})
_LATEX = str.maketrans(
    {
        **{mark: f"\\{mark}" for mark in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "×": r"$\times$",
    }
)


@dataclass(frozen=True)
class Sheet:
    """What is shown: every heading with whether its column is text (left) or figures (right), rows of plain text."""

    title: str
    headings: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def render(sheets: Sequence[Sheet], format_: str) -> str:
    """Write sheets one after another as `table`, `markdown` or `latex`."""
    writers: Mapping[str, Callable[[Sheet], str]] = {"table": text, "markdown": markdown, "latex": latex}
    return "\n\n".join(writers[format_](sheet) for sheet in sheets)


def text(sheet: Sheet) -> str:
    """Write for a terminal, what is marked in names shown as it is."""
    table = Table(title=escape(sheet.title), title_justify="left")
    for heading, left in sheet.headings:
        table.add_column(escape(heading), justify="left" if left else "right")
    for row in sheet.rows:
        table.add_row(*map(escape, row))
    return "\n".join([as_text(table), *sheet.notes])


def markdown(sheet: Sheet) -> str:
    """Write a GitHub table; names can neither break it nor become markup."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rules = [":---" if left else "---:" for _, left in sheet.headings]
    body = [line([_plain(cell, _MARKDOWN) for cell in row]) for row in sheet.rows]
    head = [f"**{_plain(sheet.title, _MARKDOWN)}**", ""]
    notes = [f"\n{_plain(note, _MARKDOWN)}" for note in sheet.notes]
    return "\n".join([*head, line([_plain(name, _MARKDOWN) for name, _ in sheet.headings]), line(rules), *body, *notes])


def latex(sheet: Sheet) -> str:
    """Write a `tabular` with booktabs rules; title and notes are comments."""

    def line(cells: Sequence[str]) -> str:
        return f"  {' & '.join(_plain(cell, _LATEX) for cell in cells)} \\\\"

    comments = [f"% {' '.join(words.split())}" for words in (sheet.title, *sheet.notes)]
    sides = "".join("l" if left else "r" for _, left in sheet.headings)
    head = [f"\\begin{{tabular}}{{{sides}}}", "  \\toprule", line([name for name, _ in sheet.headings]), "  \\midrule"]
    return "\n".join([*comments, *head, *map(line, sheet.rows), "  \\bottomrule", "\\end{tabular}"])


def _plain(cell: str, marks: dict[int, str]) -> str:
    return " ".join(cell.split()).translate(marks)
