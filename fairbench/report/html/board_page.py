"""The page of one leaderboard: what its table, heatmaps and charts show, as plain values for the template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from fairbench.leaderboard.classes import class_columns
from fairbench.leaderboard.detection import ALPHA, DISCORDANCE, ROLES, detectable
from fairbench.leaderboard.headings import explain_heading
from fairbench.leaderboard.ranking import ranking
from fairbench.leaderboard.schema import column
from fairbench.report.html.boards import Board
from fairbench.report.html.charts import Chart, Mark, dots, scatter
from fairbench.report.standings import Group, drawn, standings_of

__all__ = ["board_table", "charts", "heatmaps", "notes"]

Values = dict[str, Any]

# Column, heading and what a first click sorts by: the better end first.
COLUMNS = (
    ("method", "method", "ascending"),
    ("rank", "rank", "ascending"),
    ("ranks", "ranks 95 %", "ascending"),
    ("behind_best", "behind best", "ascending"),
    ("attack", "attack", "ascending"),
    ("worst", "worst class %", "descending"),
    ("average", "average %", "descending"),
    ("worst_class", "class", "ascending"),
    ("nsd", "NSD", "ascending"),
    ("true_worst", "true worst %", "descending"),
    ("worst10", "worst tenth %", "descending"),
    ("nsd_corrected", "NSD corrected", "ascending"),
    ("gap", "gap", "ascending"),
    ("flags", "flags", "ascending"),
    ("provenance", "follows", "ascending"),
    ("checkpoint", "checkpoint", "ascending"),
    ("seed", "seeds", "descending"),
    ("forwards", "forwards", "ascending"),
    ("train_seconds", "training s", "ascending"),
)
# Columns of the ranking by the worst class under the union on the best checkpoint, with the heading that explains each.
PLACES = {"rank": "#", "ranks": "ranks 95 %", "behind_best": "behind best", "true_worst": "true worst %"}
PERCENT = {"worst", "average", "worst10", "gap"}
RATIOS = {"nsd", "nsd_corrected"}
COSTS = {"forwards", "train_seconds"}


def board_table(board: Board) -> Values:
    """Return `columns`, `rows` of methods and of `roles`, and the `choices` of each filter."""
    frame, standing = board.frame, standings_of(board.groups)
    places = {} if standing.empty else _places(board)
    order = {method: position for position, method in enumerate(places)}
    rows = sorted(_rows(board, places), key=lambda row: (order.get(row["method"], len(order)), row["method"]))
    columns = [
        {
            "name": name,
            "title": title,
            "meaning": explain_heading(PLACES[name])["meaning"] if name in PLACES else column(name).meaning,
            "first": first,
            "wordy": name not in PERCENT | RATIOS | COSTS | set(PLACES),
        }
        for name, title, first in COLUMNS
    ]
    choices = {
        name: sorted({row[name] for row in rows if row[name]}) if name == "provenance" else _in_order(frame[name])
        for name in ("attack", "checkpoint", "provenance")
    }
    return {
        "columns": columns,
        "rows": [row for row in rows if row["method"] not in ROLES],
        "roles": [row for row in rows if row["method"] in ROLES],
        "choices": choices,
    }


def heatmaps(board: Board) -> dict[str, list[Values]]:
    """Return, per attack on the best checkpoint, a row per method: its name, page and class accuracies."""
    columns = class_columns(list(board.frame))
    best = board.frame[board.frame["checkpoint"] == "best"]
    found = {}
    for attack in reversed(_in_order(best["attack"])) if columns else ():
        rows = standings_of(board.groups, attack=attack).to_dict("records")
        found[attack] = [
            {
                "method": row["method"],
                "href": board.href(row["method"]),
                "role": row["role"],
                "shares": [row[name] for name in columns],
            }
            for row in rows
        ]
    return found


def notes(board: Board) -> list[str]:
    """Return what a reader must know of the board before comparing two rows: what it can tell apart."""
    if standings_of(board.groups).empty:
        return []
    found = {name: f"{100 * value:.1f} points" for name, value in detectable(board.frame).items()}
    parts = [f"of two checkpoints {found['average']} over all images"]
    parts += [f"{found['class']} within a class"] if "class" in found else []
    if "worst" in found:
        parts += [f"of two methods, over their seeds, {found['worst']} of worst class"]
        parts += [f"with five seeds each {found['worst at five seeds']}"]
    return [
        f"Smallest detectable difference (80 % power, {100 * ALPHA:.0f} % two-sided, "
        f"{100 * DISCORDANCE:.0f} % of the images change): {', '.join(parts)}.",
        "Without a rank: what was trained with another budget than most, or selected on the test set.",
    ]


def charts(board: Board) -> dict[str, Chart]:
    """Return the charts of the union on the best checkpoint: worst, clean, nsd and cost."""
    standing = standings_of(board.groups)
    if standing.empty:
        return {}
    rows: list[Values] = drawn(standing).to_dict("records")  # type: ignore[assignment]
    front = [row["method"] for row in sorted(rows, key=lambda row: row["average"]) if row["front"]]
    worst, robust = "worst class under the union, %", "average under the union, %"
    return {
        "worst": scatter(
            [_mark(board, row, "average", "worst") for row in rows], x_title=robust, y_title=worst, front=front
        ),
        "clean": scatter(
            [_mark(board, row, "clean", "average") for row in rows], x_title="clean average, %", y_title=robust
        ),
        "cost": scatter(
            [_mark(board, row, "forwards", "worst") for row in rows if row["forwards"] > 0],
            x_title="images that went forward in training",
            y_title=worst,
            log_x=True,
        ),
        "nsd": dots(
            [(row["method"], [_nsd(board, row)]) for row in sorted(rows, key=lambda row: row["nsd"])],
            x_title="NSD under the union: lower is more even",
        ),
    }


def _places(board: Board) -> dict[str, dict[str, str]]:
    """What `PLACES` shows of each method, as texts."""
    found = {}
    for line in ranking(board.frame, ranked=board.ranked).to_dict("records"):
        low, high = line["rank_lo"], line["rank_hi"]
        estimate, below, above = (line[f"true_worst{end}"] for end in ("", "_lo", "_hi"))
        found[str(line["method"])] = {
            "rank": "" if pd.isna(line["rank"]) else str(line["rank"]),
            "ranks": "" if pd.isna(low) else f"{low}-{high}",
            "behind_best": "" if pd.isna(line["behind_best"]) else str(line["behind_best"]),
            "true_worst": "" if pd.isna(estimate) else f"{100 * estimate:.1f} [{100 * below:.1f}, {100 * above:.1f}]",
        }
    return found


def _rows(board: Board, places: Mapping[str, Mapping[str, str]]) -> Iterator[Values]:
    """A row per method, checkpoint and attack over seeds, then one per seed; a single run's row is both."""
    for group in board.groups.values():
        several = len(group.runs) > 1 or not group.runs
        place = places.get(group.shown["method"], {})
        yield _row(board, group, "mean" if several else "mean run", place)
        for run in group.runs if several else ():
            yield _row(board, Group([run]), "run", place)


def _row(board: Board, group: Group, level: str, place: Mapping[str, str]) -> Values:
    record, runs, red = group.shown, group.runs, group.red
    method, seeds = record["method"], f"{record['seeds']:.0f} seeds"
    unchecked = any(not run["flags"] for run in runs or [record])
    texts = {
        "provenance": record["provenance"] or "",
        "checkpoint": record["checkpoint"],
        "attack": record["attack"],
        "seed": seeds if level == "mean" else f"seed {record['seed']}",
        "worst_class": ", ".join(dict.fromkeys(run["worst_class"] for run in runs if run["worst_class"])),
        "flags": ", ".join(red) or ("not checked" if unchecked else "none"),
    }
    of_the_ranking = record["attack"] == "union" and record["checkpoint"] == "best" and "mean" in level
    about = (method, record["base"], record["policies"], record["provenance"], record["architecture"])
    return {
        "method": method,
        "href": board.href(method),
        "attack": record["attack"],
        "checkpoint": record["checkpoint"],
        "provenance": record["provenance"] or "",
        "level": level,
        "shown": of_the_ranking,
        "search": " ".join(map(str, filter(None, about))).lower(),
        "red": red,
        "oracle": record["selection"] == "test",
        "quick": bool(record["quick"]),
        "cells": [
            {"text": texts[name], "value": None, "spread": ""}
            if name in texts
            else _place(name, place, of_the_ranking)
            if name in PLACES
            else _figure(name, group)
            for name, _, _ in COLUMNS[1:]
        ],
    }


def _place(name: str, place: Mapping[str, str], of_the_ranking: bool) -> Values:
    """A cell of what the ranking says of a method; an estimate stands in the row that it was made from alone."""
    text = place.get(name, "") if of_the_ranking or name != "true_worst" else ""
    value, _, spread = text.partition(" ")
    return {"text": value, "value": value.partition("-")[0] if name == "ranks" else value, "spread": spread}


def _figure(name: str, group: Group) -> Values:
    """A number as text, the value that it sorts by, and the spread behind it."""
    record, value = group.shown, group.shown[name]
    if value is None:
        return {"text": "", "value": "", "spread": ""}
    write, deviation, spread = _write(name), group.std.get(name), ""
    if len(group.runs) != 1:
        spread = "" if deviation is None or name in COSTS else f"± {write(deviation)}"
    elif record.get(f"{name}_lo") is not None:
        spread = f"[{write(record[f'{name}_lo'])}, {write(record[f'{name}_hi'])}]"
    return {"text": write(value), "value": f"{value:g}", "spread": spread}


def _write(name: str) -> Any:
    if name in PERCENT:
        return lambda value: f"{100 * value:.1f}"
    return (lambda value: f"{value:.3f}") if name in RATIOS else (lambda value: f"{value:,.0f}".replace(",", "\u202f"))


def _mark(board: Board, row: Values, across: str, up: str) -> Mark:
    x_scale = 1 if across == "forwards" else 100
    ends = (row.get(f"{across}_low", float("nan")) * x_scale, row.get(f"{across}_high", float("nan")) * x_scale)
    x, y = x_scale * row[across], 100 * row[up]
    return Mark(
        x,
        y,
        row["method"],
        f"{row['method']}: {x:,.1f} across, {y:.1f} % up".replace(".0 across", " across"),
        _kind(row),
        board.href(row["method"]),
        x_ends=ends,
        y_ends=(100 * row[f"{up}_low"], 100 * row[f"{up}_high"]),
    )


def _nsd(board: Board, row: Values) -> Mark:
    text = f"{row['method']}: NSD {row['nsd']:.3f}"
    return Mark(
        row["nsd"], 0, row["method"], text, _kind(row), board.href(row["method"]), (row["nsd_low"], row["nsd_high"])
    )


def _kind(row: Values) -> str:
    return "role" if row["role"] else "front" if row["front"] else "member"


def _in_order(names: pd.Series[Any]) -> list[str]:
    """Distinct names in the board's order: that of the protocol, the union last."""
    return list(map(str, names.dropna().unique()))
