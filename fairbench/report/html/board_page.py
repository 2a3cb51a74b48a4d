"""The page of one leaderboard: its table and notes, as plain values for the template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard.columns import ROLES, column
from fairbench.leaderboard.detectable import ALPHA, DISCORDANCE, RECOMMENDED_SEEDS, detectable, fewest_seeds
from fairbench.leaderboard.headings import explain_heading
from fairbench.report.html.board_charts import in_order
from fairbench.report.html.boards import Board
from fairbench.report.html.page import Values
from fairbench.report.standings import Group

__all__ = ["board_table", "notes"]

# Column, heading and the direction of a first click on it, with the better end first. A phone shows the first three.
COLUMNS = (
    ("rank", "rank", "ascending"),
    ("method", "method", "ascending"),
    ("worst", "worst class %", "descending"),
    ("ranks", "ranks 95 %", "ascending"),
    ("average", "average %", "descending"),
    ("worst_class", "class", "ascending"),
    ("behind_best", "behind best", "ascending"),
    ("true_worst", "true worst %", "descending"),
    ("nsd", "NSD", "ascending"),
    ("attack", "attack", "ascending"),
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
# Columns of the rankings by the worst class on the best checkpoint, and the headings that explain them.
PLACES = {"rank": "#", "ranks": "ranks 95 %", "behind_best": "behind best", "true_worst": "true worst %"}
PERCENT = {"worst", "average", "worst10", "gap"}
RATIOS = {"nsd", "nsd_corrected"}
COSTS = {"forwards", "train_seconds"}
FIXED = 3  # columns that are shown even where all their cells are equal: rank, method, worst class


def board_table(board: Board) -> Values:
    """Return `columns`, the `rows` of methods, those of `roles`, the `choices` of each filter, and `constant`.

    `constant` numbers the columns, from 1, whose cells are all equal in the rows that the page shows first. The column
    of the worst tenth is left out where it equals the worst class in every row.
    """
    frame, places = board.frame, _places(board)
    order = {method: position for position, method in enumerate(places.get(UNION, {}))}
    tenth = (frame["worst10"] == frame["worst"]) | frame["worst10"].isna()
    shown = [one for one in COLUMNS if one[0] != "worst10" or not tenth.all()]
    rows = sorted(_rows(board, places, shown), key=lambda row: (order.get(row["method"], len(order)), row["method"]))
    columns = [
        {
            "name": name,
            "title": title,
            "meaning": explain_heading(PLACES[name])["meaning"] if name in PLACES else column(name).meaning,
            "first": first,
            "wordy": name not in PERCENT | RATIOS | COSTS | set(PLACES),
        }
        for name, title, first in shown
    ]
    choices = {
        name: sorted({row[name] for row in rows if row[name]}) if name == "provenance" else in_order(frame[name])
        for name in ("attack", "checkpoint", "provenance")
    }
    return {
        "columns": columns,
        "rows": [row for row in rows if row["method"] not in ROLES],
        "roles": [row for row in rows if row["method"] in ROLES],
        "choices": choices,
        "constant": _constant([row for row in rows if row["shown"]]),
    }


def notes(board: Board) -> list[str]:
    """Return sentences on the differences that the board can detect, and on rows without a rank."""
    if board.standings.empty:
        return []
    found = {name: f"{100 * value:.1f} points" for name, value in detectable(board.frame).items()}
    parts = [f"of two checkpoints {found['average']} over all images"]
    parts += [f"{found['class']} within a class"] if "class" in found else []
    if "worst" in found:
        seeds, five = fewest_seeds(board.frame), found["worst at five seeds"]
        parts += [f"of two methods with {seeds} seeds each {found['worst']} of worst class"]
        parts += [f"with {RECOMMENDED_SEEDS} seeds each {five}"] if seeds != RECOMMENDED_SEEDS else []
    return [
        f"Smallest detectable difference under the union (80 % power, {100 * ALPHA:.0f} % two-sided, "
        f"{100 * DISCORDANCE:.0f} % of the images change): {', '.join(parts)}.",
        "Not ranked: methods trained with another budget than most others, or selected on the test set.",
    ]


def _constant(rows: Sequence[Values]) -> list[int]:
    """Number the columns, from 1, in which all of several rows have the same text; rank and name always stay."""
    texts = list(zip(*([cell["text"] + cell["spread"] for cell in row["cells"]] for row in rows), strict=True))
    return [place for place, column in enumerate(texts, 1) if place > FIXED and len(rows) > 1 and len({*column}) == 1]


def _places(board: Board) -> dict[str, dict[str, dict[str, str]]]:
    """Return the texts of the columns `PLACES` by attack and method, in the order of each attack's ranking."""
    return {attack: _places_under(frame) for attack, frame in board.rankings.items()}


def _places_under(ranked: pd.DataFrame) -> dict[str, dict[str, str]]:
    found = {}
    for line in ranked.to_dict("records"):
        low, high = line["rank_lo"], line["rank_hi"]
        estimate, below, above = (line[f"true_worst{end}"] for end in ("", "_lo", "_hi"))
        found[str(line["method"])] = {
            "rank": "" if pd.isna(line["rank"]) else str(line["rank"]),
            "ranks": "" if pd.isna(low) else f"{low}-{high}",
            "behind_best": "" if pd.isna(line["behind_best"]) else str(line["behind_best"]),
            "true_worst": "" if pd.isna(estimate) else f"{100 * estimate:.1f} [{100 * below:.1f}, {100 * above:.1f}]",
        }
    return found


def _rows(
    board: Board, places: Mapping[str, Mapping[str, Mapping[str, str]]], columns: Sequence[tuple[str, str, str]]
) -> Iterator[Values]:
    """A row per method, checkpoint and attack over seeds, then one per seed; a single run's row is both."""
    names = [name for name, _, _ in columns]
    ranked = {method for under in places.values() for method, place in under.items() if place["rank"]}
    for (method, checkpoint, attack), group in board.groups.items():
        unranked = {"unranked": board.ranked and method not in ranked | set(ROLES)}
        several = len(group.runs) > 1 or not group.runs
        place = places.get(attack, {}).get(method, {}) if checkpoint == "best" else {}
        yield _row(board, group, "mean" if several else "mean run", place, names) | unranked
        for run in group.runs if several else ():
            yield _row(board, Group([run]), "run", place, names) | unranked


def _row(board: Board, group: Group, level: str, place: Mapping[str, str], names: Sequence[str]) -> Values:
    record, runs, red = group.shown, group.runs, group.red
    method, seeds = record["method"], f"{record['seeds']:.0f} seeds"
    unchecked = any(not run["flags"] for run in runs or [record])
    texts = {
        "method": method,
        "provenance": record["provenance"] or "",
        "checkpoint": record["checkpoint"],
        "attack": record["attack"],
        "seed": seeds if level == "mean" else f"seed {record['seed']}",
        "worst_class": group.worst_classes,
        "flags": ", ".join(red) or ("not checked" if unchecked else "none"),
    }
    shown = record["attack"] == UNION and record["checkpoint"] == "best" and "mean" in level
    about = (method, record["base"], record["policies"], record["provenance"], record["architecture"])
    return {
        "method": method,
        "href": board.href(method),
        "attack": record["attack"],
        "checkpoint": record["checkpoint"],
        "provenance": record["provenance"] or "",
        "level": level,
        "shown": shown,
        "search": " ".join(map(str, filter(None, about))).lower(),
        "red": red,
        "oracle": record["selection"] == "test",
        "quick": bool(record["quick"]),
        "cells": [
            {"text": texts[name], "value": None, "spread": ""}
            if name in texts
            else _place(name, place, "mean" in level)
            if name in PLACES
            else _figure(name, group)
            for name in names
        ],
    }


def _place(name: str, place: Mapping[str, str], over_seeds: bool) -> Values:
    """A cell with a figure of the ranking; an estimate is shown only in the row that it was made from."""
    text = place.get(name, "") if over_seeds or name != "true_worst" else ""
    value, _, spread = text.partition(" ")
    return {"text": value, "value": value.partition("-")[0] if name == "ranks" else value, "spread": spread}


def _figure(name: str, group: Group) -> Values:
    """A cell with a number: its text, the value that it sorts by, and its spread."""
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
