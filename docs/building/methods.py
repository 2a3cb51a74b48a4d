"""A page per method, from the registry, the page of objectives and the committed boards."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from building.boards import committed, link
from building.links import DOCS
from building.markdown import escaped, table
from fairbench.authoring.catalogue import PROVENANCE, describe_name, short
from fairbench.authoring.citation import parse_citation
from fairbench.registry import methods
from fairbench.report.html.boards import Board
from fairbench.report.html.page import unbroken

__all__ = ["formula", "page", "pages"]

Row = Mapping[str, Any]
INDEX = """# Methods

{count} methods are built in. `fairbench methods` lists them, and `fairbench methods show NAME` prints most of what
these pages show. The provenance says what a method's file reproduces:

{words}

{methods}

```{{toctree}}
:hidden:

{names}
```
"""
NOTE = """Robust accuracy under the union of a board's attacks, best checkpoint: the mean over seeds with its standard
deviation, or one run with its 95 % interval for new images. A method without a rank was trained with another budget
than the others, or its board is not ranked. [Columns and headings](../columns.md) defines the figures."""


def pages() -> dict[str, str]:
    """Return the page of every method and their index, by file name below docs/generated."""
    boards = committed()
    facts = {name: describe_name(methods, name) for name in methods.names()}
    rows = [
        [f"[{escaped(name)}]({name}.md)", escaped(one["provenance"].partition(":")[0]), escaped(one["summary"])]
        for name, one in facts.items()
    ]
    words = table(["provenance", "meaning"], PROVENANCE.items())
    listing = table(["method", "provenance", "summary"], rows)
    index = INDEX.format(count=len(facts), words=words, methods=listing, names="\n".join(facts))
    return {"methods/index.md": index} | {f"methods/{name}.md": page(one, boards) for name, one in facts.items()}


def page(facts: Row, boards: Sequence[Board]) -> str:
    """Return the page of one method from what `describe_name` says and from the rows of each board."""
    name, citation = facts["name"], facts["citation"]
    parts = [f"# {escaped(name)}", escaped(facts["summary"]) + ".", origin(facts)]
    parts += ["## Formula", "[Objectives and class policies](../../objectives.md) explains the notation."]
    for part in (facts["base"], *facts["policies"]):
        parts += [f"### {'Objective' if part == facts['base'] else 'Policy'} {escaped(part)}", formula(part)]
    parts += ["## Departures", departures(facts), "## Hyper-parameters"]
    parts.append(listed(facts["hyper_parameters"], "It has none."))
    if facts["search_space"]:
        parts += ["`fairbench tune` tries these values, beside the learning rate:", listed(facts["search_space"], "")]
    if facts["paper_recipe"]:
        parts += [
            "Optimiser settings of the paper, which `fairbench tune` tries as well:",
            listed(facts["paper_recipe"], ""),
        ]
    parts += ["## On the boards", standing(name, boards)]
    if paper := parse_citation(citation):
        parts += ["## Cite", f"```bibtex\n{paper.bibtex}\n```"]
    return "\n\n".join(parts) + "\n"


def origin(facts: Row) -> str:
    """Return a table of where the method comes from and what it is composed of."""
    paper = parse_citation(facts["citation"])
    source = f"[{escaped(facts['citation'])}]({paper.url})" if paper and paper.url else escaped(facts["citation"])
    rows = {
        "source": source or "none",
        "provenance": escaped(facts["provenance"]),
        "base objective": linked(facts["base"], facts["name"]),
        "class policies": ", ".join(f"`{name}`" for name in facts["policies"]) or "none",
        "needs": ", ".join(facts["needs"]) or "nothing besides the training data",
        "reads": ", ".join(f"`{row['vector']}`" for row in facts["reads"]) or "no class vector",
        "defined in": f"`{facts['defined_in']}`",
    }
    return table(["property", "value"], rows.items())


def linked(base: str, name: str) -> str:
    """Return the base's name, with a link to its page unless this is its page."""
    return f"`{base}`" if base == name else f"[`{base}`]({base}.md)"


@cache
def sections() -> dict[str, str]:
    """Return the sections of docs/objectives.md, by the name of the objective or policy."""
    text = (DOCS / "objectives.md").read_text(encoding="utf-8")
    found = re.split(r"^### `(.+)`$", re.sub(r"^## .*$", "", text, flags=re.MULTILINE), flags=re.MULTILINE)
    return {name: body.strip() for name, body in zip(found[1::2], found[2::2], strict=True)}


def formula(part: str) -> str:
    """Return what docs/objectives.md says of an objective or a policy; raises KeyError where it has no section."""
    return sections()[part]


def departures(facts: Row) -> str:
    """Return a list of how the method departs from its source."""
    sentences = [f"- {escaped(row['sentence'])}" for row in facts["departures"]]
    return "\n".join(sentences) or "None is declared."


def listed(rows: Sequence[Row], otherwise: str) -> str:
    """Return rows as a table; their first cell is code."""
    cells = [
        [f"`{first}`", *(escaped(short(value)) for value in rest)] for first, *rest in (row.values() for row in rows)
    ]
    return table([key.replace("_", " ") for key in rows[0]], cells) if rows else otherwise


def standing(name: str, boards: Sequence[Board]) -> str:
    """Return the method's row on every board that has one, with a link to its page there."""
    rows = [
        [
            link(board, "../../", name),
            unbroken(ranked(row)),
            row["seeds"],
            unbroken(percent(row, "average")),
            unbroken(percent(row, "worst")),
            escaped(row["worst_class"]),
            unbroken(true_worst(row)),
        ]
        for board in boards
        for row in board.ranking.to_dict("records")
        if row["method"] == name
    ]
    if not rows:
        return "No committed board has this method."
    heads = ["board", "rank, 95 % interval", "seeds", "average %", "worst class %", "class", "true worst %"]
    return f"{table(heads, rows)}\n{NOTE}"


def ranked(row: Row) -> str:
    """Return the rank of a row with its interval over new seeds, where it has them."""
    if missing(row["rank"]):
        return "not ranked"
    interval = "" if missing(row["rank_lo"]) else f" [{int(row['rank_lo'])}, {int(row['rank_hi'])}]"
    return f"{int(row['rank'])}{interval}"


def percent(row: Row, figure: str) -> str:
    """Return a figure in percent with its deviation over seeds, or with the interval of a single run."""
    if row["seeds"] > 1:
        return f"{100 * row[figure]:.1f} ± {100 * row[f'{figure}_std']:.1f}"
    return f"{100 * row[figure]:.1f} [{100 * row[f'{figure}_lo']:.1f}, {100 * row[f'{figure}_hi']:.1f}]"


def true_worst(row: Row) -> str:
    """Return the estimate of the worst class's true accuracy with its 95 % interval."""
    value, low, high = (100 * row[f"true_worst{end}"] for end in ("", "_lo", "_hi"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def missing(value: Any) -> bool:
    """Whether a cell of a frame is empty."""
    return value is None or str(value) == "<NA>" or (isinstance(value, float) and math.isnan(value))
