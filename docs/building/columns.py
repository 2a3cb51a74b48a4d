"""The reference of the columns of a leaderboard file and of the headings of tables."""

from __future__ import annotations

from building.markdown import table
from fairbench.leaderboard import columns, headings

__all__ = ["page"]

TITLE = """# Columns and headings

`fairbench explain NAME` prints the same of one column or heading. [The columns of a leaderboard
file](../columns.md) explains how a file is organised; [Metrics](../metrics.md) has the formulas.
"""


def page() -> str:
    """Return a table of all columns, and one of the headings that are no column."""
    declared = [columns.explain_column(name) for name in columns.EVERY]
    keys = ("column", "meaning", "type", "unit", "empty", "since")
    rows = [[f"`{facts['column']}`", *(facts.get(key, "") for key in keys[1:])] for facts in declared]
    named = [[heading, headings.explain_heading(heading)["meaning"]] for heading in headings.HEADINGS]
    return "\n".join(
        [
            TITLE,
            "## Columns of a file\n",
            table(["column", "meaning", "type", "unit", "empty cell", "since"], rows),
            "\n## Headings of tables and pages\n",
            table(["heading", "meaning"], named),
        ]
    )
