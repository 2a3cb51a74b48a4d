"""A leaderboard as text for a terminal, and in the formats for papers and scripts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from fairbench.errors import InvalidInput
from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard import merge
from fairbench.leaderboard.board import guarded, load_leaderboard
from fairbench.leaderboard.changed import has_changed_settings, why_unranked
from fairbench.leaderboard.columns import ROLES
from fairbench.leaderboard.comparison import Comparison
from fairbench.leaderboard.detectable import detectable
from fairbench.leaderboard.merge import Merged
from fairbench.leaderboard.published import find_published, load_published, reported_on
from fairbench.leaderboard.ranking import oracle, ranking
from fairbench.report.text import answer
from fairbench.report.text.cells import counted_seeds
from fairbench.report.text.compared import comparison_sheet, published_sheet
from fairbench.report.text.costs import cost_sheet
from fairbench.report.text.every_attack import every_attack
from fairbench.report.text.ranked import ranking_sheet
from fairbench.report.text.sheet import render_sheets
from fairbench.report.text.stdout import wrapped

__all__ = ["as_csv", "compared", "rows_as_json", "show_board", "shown_after_a_run"]


def show_board(
    path: Path,
    *,
    by: str = "worst",
    attack: str = UNION,
    checkpoint: str = "best",
    base: str | None = None,
    cost: bool = False,
    classes: bool = False,
    published: Path | None = None,
    format_: str = "table",
    merged: Merged | None = None,
) -> str:
    """Return a board's ranking, or its costs, as `table`, `markdown`, `latex`, `csv` or `json`.

    `attack="all"` is a table with a row for every attack. `published` is a root folder below which published figures
    are looked for first. `merged` stands for the file's own rows. Raises UnknownName and InvalidInput.
    """
    found = merge.read_alone(path) if merged is None else merged
    board, notes = found.frame, found.notes
    ranked = not has_changed_settings(path.stem)
    if attack == "all":
        chosen = cost or classes or base is not None or published is not None
        if chosen or (format_, by, checkpoint) != ("table", "worst", "best"):
            raise InvalidInput("--attack all is a table of its own: give no other option, or name one attack")
        return "\n".join([every_attack(board, ranked=ranked), *map(wrapped, notes), "", str(path)])
    frame = ranking(board, by=by, attack=attack, checkpoint=checkpoint, base=base, ranked=ranked)
    optimism = oracle(path, board, attack=attack, checkpoint=checkpoint)
    reported = _reported(board, attack, published)
    if format_ == "csv":
        if published is not None:
            raise InvalidInput("--papers has no csv, which would mix two tables: use json, or read published.csv")
        return as_csv(frame)
    smallest = detectable(board, attack=attack, checkpoint=checkpoint)
    if format_ == "json":
        facts: dict[str, Any] = {
            "board": str(path),
            "attack": attack,
            "checkpoint": checkpoint,
            "by": by,
            "detectable": smallest,
        }
        facts |= {"ranking": _records(frame), "oracle": optimism} | ({"notes": list(notes)} if notes else {})
        return json.dumps(facts | ({} if reported is None else {"published": _records(reported)}), indent=1)
    title = _title(board, path, by, attack, checkpoint, ranked, cost)
    if cost:
        sheets = [cost_sheet(title, frame, base)]
    else:
        sheets = [ranking_sheet(title, frame, by=by, oracle=optimism, detectable=smallest, classes=classes)]
    said = [answer.sentence(frame)] if by == "worst" and not cost else []
    said += answer.beyond_the_union(board, ranked=ranked) if said and (attack, checkpoint) == (UNION, "best") else []
    sheets = [replace(sheet, notes=[*said, *notes, *sheet.notes]) for sheet in sheets]
    sheets += [] if reported is None else [published_sheet(reported, str(board["dataset"].iloc[0]))]
    text = render_sheets(sheets, format_)
    return f"{text}\n\n{path}" if format_ == "table" else text


def shown_after_a_run(path: Path) -> str:
    """Return the last output of a run: the ranking, the answer in a sentence, and the next commands."""
    ranked = not has_changed_settings(path.stem)
    found = merge.merged(path) if ranked else merge.read_alone(path)
    board = found.frame
    frame = ranking(board, ranked=ranked)
    sheet = ranking_sheet(_title(board, path, "worst", UNION, "best", ranked, False), frame)
    said = [answer.sentence(frame), *answer.beyond_the_union(board, ranked=ranked), *answer.placed(frame)]
    said += [*found.notes, *answer.next_steps(frame, path)]
    lines = [
        render_sheets([replace(sheet, notes=(), legend={})], "table"),
        "",
        *map(wrapped, said),
        "",
        str(path),
    ]
    return "\n".join(lines)


def compared(found: Comparison, format_: str, notes: Sequence[str] = ()) -> str:
    """Return a comparison in one of the formats; formats with sentences also show `notes`."""
    rows = [{**asdict(one), "difference": one.difference, "better": one.winner} for one in found.differences]
    if format_ == "csv":
        return as_csv(pd.DataFrame(rows))
    if format_ == "json":
        facts = {key: value for key, value in asdict(found).items() if key != "differences"}
        whole = facts | {"differences": _records(pd.DataFrame(rows)), "verdict": found.verdict}
        return json.dumps({key: None if _is_nan(value) else value for key, value in whole.items()}, indent=1)
    sheet = comparison_sheet(found)
    return render_sheets([replace(sheet, notes=[*sheet.notes, *notes])], format_)


def as_csv(frame: pd.DataFrame) -> str:
    """Write a frame as CSV text in which a spreadsheet reads no cell as a formula."""
    safe = frame.map(lambda cell: guarded(cell) if isinstance(cell, str) else cell)
    return safe.to_csv(index=False, lineterminator="\n").rstrip("\n")


def rows_as_json(path: Path) -> str:
    """Return every row of a leaderboard file as JSON."""
    return load_leaderboard(path).to_json(orient="records", indent=1)


def _reported(board: pd.DataFrame, attack: str, root: Path | None) -> pd.DataFrame | None:
    if root is None:
        return None
    rows = load_published(find_published(root))
    return reported_on(rows, str(board["dataset"].iloc[0]), None if attack == UNION else attack)


def _title(board: pd.DataFrame, path: Path, by: str, attack: str, checkpoint: str, ranked: bool, cost: bool) -> str:
    first = board.iloc[0]
    methods = len(set(board["method"]).difference(ROLES))
    reason = why_unranked(board, ranked=ranked)
    kind = f" ({reason})" if reason else ""
    counted = "1 method" if methods == 1 else f"{methods} methods"
    what = "cost of training" if cost else f"ranked by {by} under {attack}"
    under = board[(board["attack"] == attack) & (board["checkpoint"] == checkpoint)]
    covered, images = under["n"].max(), board["n"].max()
    n = f"{images}" if cost or covered == images else f"{covered} of {images} test images"
    return (
        f"{first['suite']} {path.stem}{kind}: dataset {first['dataset']}, protocol {first['protocol']}, {counted}, "
        f"{counted_seeds(board)}, n = {n}; {what}, {checkpoint} checkpoint"
    )


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Convert rows to plain Python values; missing values become None."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [
        {str(key): value.item() if hasattr(value, "item") else value for key, value in row.items()}
        for row in plain.to_dict("records")
    ]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
