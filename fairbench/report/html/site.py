"""Leaderboards as a folder of pages that open from a disk; no page loads anything from a network."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fairbench.errors import InvalidInput
from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard.columns import AGGREGATES, ROLES
from fairbench.leaderboard.merge import Merged
from fairbench.report.html import board_charts, board_page
from fairbench.report.html.boards import Board, file_name, read_board
from fairbench.report.html.method_page import method
from fairbench.report.html.page import render_page
from fairbench.report.html.pages import write_pages
from fairbench.report.html.reported import on_board
from fairbench.report.html.submission import submission_steps
from fairbench.report.text.answer import sentence
from fairbench.report.text.cells import counted_seeds

__all__ = ["build_site", "pages"]


def build_site(
    boards: Sequence[Path], out: Path, *, merged: Mapping[Path, Merged] | None = None, home: str = ""
) -> list[Path]:
    """Write the pages of leaderboard CSVs below `out` and return their paths, the index first.

    The same input gives the same bytes. `merged` replaces the rows of a file by others (`fairbench.leaderboard.merge`).
    `home` is the address of a documentation that every page links to, relative to `out`.
    Run folders are looked for in the `results` folder beside the `leaderboards` folder of a CSV; without them a page
    has no curves, flows and settings. Pages of an earlier build that the site no longer has are removed
    (`fairbench.report.html.pages`). Raises InvalidInput for two boards of one name, Missing and CorruptFile.
    """
    return write_pages(dict(pages([read_board(path, (merged or {}).get(path)) for path in boards], home=home)), out)


def pages(boards: Sequence[Board], *, home: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path, relative to the site, and the content of every page and of every CSV; raises InvalidInput."""
    stems = [board.stem for board in boards]
    twice = next((board for board in boards if stems.count(board.stem) > 1), None)
    if twice:
        raise InvalidInput(f"two boards are called {twice.name} {twice.version}: a site holds one of them")
    summaries = [_summary(board) for board in boards]
    listed = [summary | {"earlier": _earlier(board, boards)} for summary, board in zip(summaries, boards, strict=True)]
    yield "index.html", _page("site_index.html", "", home=home, boards=listed)
    for summary, board in zip(summaries, boards, strict=True):
        values = {
            "table": board_page.board_table(board),
            "heatmaps": board_charts.heatmaps(board),
            "charts": board_charts.charts(board),
            "notes": board_page.notes(board),
            "reported": on_board(board.published, str(board.frame["dataset"].iloc[0])),
            "class_names": board.class_names,
            "submission": submission_steps(board),
            "summary": summary,
        }
        yield f"{board.stem}.html", _page("site_board.html", "", home=home, **values)
        yield f"{board.stem}.csv", board.csv
        for name in board.methods:
            path = f"{board.stem}/{file_name(name)}.html"
            values = {"method": method(board, name), "summary": summary}
            yield path, _page("site_method.html", "../", home=home, **values)


def _page(template: str, top: str, **values: Any) -> str:
    """Fill a template. The page allows its one script by hash, so that no script in a user-given name can run."""
    script = _asset("site.js")
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    given = {"top": top, "script": Markup(script), "scripts": f"sha256-{digest}"}
    return render_page(template, **given, **values)


def _earlier(board: Board, boards: Sequence[Board]) -> bool:
    """Whether another of the boards is a newer version `v<N>` of the same suite."""
    newest = max(_number(one) for one in boards if one.name == board.name)
    return 0 < _number(board) < newest


def _number(board: Board) -> int:
    return int(board.version[1:]) if board.version[1:].isdecimal() else 0


def _summary(board: Board) -> dict[str, Any]:
    frame = board.frame
    first = frame.iloc[0]
    union = frame[(frame["attack"] == UNION) & (frame["checkpoint"] == "best")]
    record = next((runs[0][1] for runs in board.runs.values() if runs), None)
    students = frame[~frame["seed"].isin(AGGREGATES) & ~frame["method"].isin(ROLES)]
    return {
        "suite": board.name,
        "version": board.version,
        "href": f"{board.stem}.html",
        "csv": f"{board.stem}.csv",
        "leads": {attack: sentence(ranked) for attack, ranked in board.rankings.items()},
        "whole": board.whole or "",
        "dataset": str(first["dataset"]),
        "protocol": str(first["protocol"]),
        "threat": record["spec"]["threat"] if record else None,
        "methods": len(set(board.methods).difference(ROLES)),
        "seeds": counted_seeds(frame),
        "fewest_seeds": int(students.groupby("method")["seed"].nunique().min()) if len(students) else 1,
        "n": int(first["n"]),
        "n_union": int(union["n"].iloc[0]) if len(union) else int(first["n"]),
        "classes": len(board.class_names),
        "class_names": list(board.class_names),
        "attacks": list(map(str, frame["attack"].dropna().unique())),
        "unranked": board.unranked,
        "runs": sum(map(len, board.runs.values())),
    }


@cache
def _asset(name: str) -> str:
    return (files("fairbench.report.html") / "templates" / name).read_text(encoding="utf-8")
