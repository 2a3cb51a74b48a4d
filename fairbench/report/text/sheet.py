"""A sheet is a table with a title, headings, cells and notes; it is written for a terminal, as Markdown or as LaTeX."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table

from fairbench.report.text.stdout import as_text, encodable, wrapped
from fairbench.report.text.width import terminal_width

__all__ = ["Sheet", "latex", "plain_columns", "render_sheets", "sheet_markdown", "text"]

_FRAME = 3  # characters of a column beside its text: a blank on each side and a border
_LEAST = 16  # least width, in characters, of a column whose cells may continue on further lines

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
    """A table as plain text: each heading with whether its column is text (left) or figures (right), and the rows.

    On a terminal that is too narrow headings continue on further lines, and then the columns in `optional` are left
    out, in this order. The cells of the column `folding` may continue on further lines. `legend` explains columns by
    heading; its sentences follow the notes, except those of columns that are left out.
    """

    title: str
    headings: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    optional: Sequence[str] = ()
    folding: str | None = None
    legend: Mapping[str, str] = field(default_factory=dict)

    @property
    def remarks(self) -> list[str]:
        """The notes, and the legend of the columns of this sheet."""
        return [*self.notes, *(said for name, said in self.legend.items() if name in dict(self.headings))]


def render_sheets(sheets: Sequence[Sheet], format_: str) -> str:
    """Write sheets one after another as `table`, `markdown` or `latex`."""
    writers: Mapping[str, Callable[[Sheet], str]] = {"table": text, "markdown": sheet_markdown, "latex": latex}
    return "\n\n".join(writers[format_](sheet) for sheet in sheets)


def text(sheet: Sheet) -> str:
    """Write for a terminal. Where it is too narrow columns are left out, and the last line names them."""
    width = terminal_width()
    sheet, dropped = _fitted(sheet, width)
    table = Table(title=escape(sheet.title), title_justify="left")
    widths = _widths(sheet, width)
    fits = 1 + sum(size + _FRAME for size in widths) <= width
    for (heading, left), size in zip(sheet.headings, widths, strict=True):
        table.add_column(escape(heading), justify="left" if left else "right", width=size if fits else None)
    for row in sheet.rows:
        table.add_row(*map(escape, row))
    return "\n".join([as_text(table), *map(wrapped, sheet.remarks), *_left_out(dropped)])


def plain_columns(sheet: Sheet) -> str:
    """Write for a terminal in aligned columns without a frame, fitted to the terminal as `text` is, without title."""
    width = terminal_width()
    sheet, dropped = _fitted(sheet, width)
    names = [heading for heading, _ in sheet.headings]
    widths = _widths(sheet, width)
    if sheet.folding in names:
        place = names.index(sheet.folding)
        room = width - sum(widths[:place] + widths[place + 1 :]) - 2 * (len(widths) - 1)
        widths[place] = min(widths[place], max(_LEAST, room))
    if sum(widths) + 2 * (len(widths) - 1) > width:
        whole = {names[0], sheet.folding, *(name for name, left in sheet.headings if not left)}
        words = zip(names, widths, _longest_words(sheet), strict=True)
        widths = [size if name in whole else min(size, word) for name, size, word in words]
    head, lines = (
        list(_lines(names, widths, sheet)),
        [line for row in sheet.rows for line in _lines(row, widths, sheet)],
    )
    rule = "-" * max(map(len, head + lines))
    return encodable("\n".join([*head, rule, *lines, "", *map(wrapped, sheet.remarks), *_left_out(dropped)]))


def _lines(row: Sequence[str], widths: Sequence[int], sheet: Sheet) -> Iterator[str]:
    """The lines of a row in aligned columns: more than one where a cell is wider than its column."""
    cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, map(partial(max, 1), widths), strict=True)]
    for parts in itertools.zip_longest(*cells, fillvalue=""):
        padded = [
            part.ljust(width) if left else part.rjust(width)
            for part, width, (_, left) in zip(parts, widths, sheet.headings, strict=True)
        ]
        yield "  ".join(padded).rstrip()


def _left_out(dropped: Sequence[str]) -> list[str]:
    """Say in a sentence which columns a narrow terminal does not show."""
    if not dropped:
        return []
    return [wrapped(f"Not shown, because the terminal is too narrow: {', '.join(dropped)}. A pipe shows all columns.")]


def _widths(sheet: Sheet, width: int) -> list[int]:
    """The width of each column: that of its cells and heading, or of the heading's longest word if all do not fit."""
    cells = [max(map(cell_len, column), default=0) for column in zip(*sheet.rows, strict=True)] or [0] * len(
        sheet.headings
    )
    whole = [max(size, cell_len(name)) for size, (name, _) in zip(cells, sheet.headings, strict=True)]
    if 1 + sum(whole) + _FRAME * len(whole) <= width:
        return whole
    words = [max(map(cell_len, name.split()), default=0) for name, _ in sheet.headings]
    return [max(size, word) for size, word in zip(cells, words, strict=True)]


def _longest_words(sheet: Sheet) -> list[int]:
    """The width of each column's longest word."""
    columns = zip(*([heading for heading, _ in sheet.headings], *sheet.rows), strict=True)
    return [max((cell_len(word) for cell in column for word in cell.split()), default=0) for column in columns]


def _fitted(sheet: Sheet, width: int) -> tuple[Sheet, list[str]]:
    """Leave out optional columns, in their order, until the table is at most `width` wide; return also their names."""
    names = [heading for heading, _ in sheet.headings]
    widths = [size + _FRAME for size in _widths(sheet, width)]
    if sheet.folding in names:
        place = names.index(sheet.folding)
        widths[place] = min(widths[place], _LEAST + _FRAME)
    kept, dropped = set(range(len(names))), []
    for name in sheet.optional:
        if 1 + sum(widths[index] for index in kept) <= width:
            break
        if name in names and names.index(name) in kept:
            kept.discard(names.index(name))
            dropped.append(name)
    for name in dropped[::-1]:  # a narrow column may fit again once a wider one is left out
        index = names.index(name)
        if 1 + widths[index] + sum(widths[other] for other in kept) <= width:
            kept.add(index)
            dropped.remove(name)
    columns = sorted(kept)
    fitted = replace(
        sheet,
        headings=[sheet.headings[index] for index in columns],
        rows=[[row[index] for index in columns] for row in sheet.rows],
    )
    return fitted, dropped


def sheet_markdown(sheet: Sheet) -> str:
    """Write a GitHub table; names can neither break it nor become markup."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rules = [":---" if left else "---:" for _, left in sheet.headings]
    body = [line([_plain(cell, _MARKDOWN) for cell in row]) for row in sheet.rows]
    head = [f"**{_plain(sheet.title, _MARKDOWN)}**", ""]
    notes = [f"\n{_plain(note, _MARKDOWN)}" for note in sheet.remarks]
    return "\n".join([*head, line([_plain(name, _MARKDOWN) for name, _ in sheet.headings]), line(rules), *body, *notes])


def latex(sheet: Sheet) -> str:
    """Write a `tabular` with booktabs rules; title and notes are comments."""

    def line(cells: Sequence[str]) -> str:
        return f"  {' & '.join(_plain(cell, _LATEX) for cell in cells)} \\\\"

    comments = [f"% {' '.join(words.split())}" for words in (sheet.title, *sheet.remarks)]
    sides = "".join("l" if left else "r" for _, left in sheet.headings)
    head = [f"\\begin{{tabular}}{{{sides}}}", "  \\toprule", line([name for name, _ in sheet.headings]), "  \\midrule"]
    return "\n".join([*comments, *head, *map(line, sheet.rows), "  \\bottomrule", "\\end{tabular}"])


def _plain(cell: str, marks: dict[int, str]) -> str:
    return " ".join(cell.split()).translate(marks)
