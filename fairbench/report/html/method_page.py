"""The page of one method on one board: rank, figures, classes, curves, flows, cost, settings, commands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fairbench.authoring.catalogue import PROVENANCE
from fairbench.authoring.citation import parse_citation
from fairbench.errors import FairbenchError
from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard.classes import class_columns
from fairbench.leaderboard.columns import ROLES
from fairbench.leaderboard.lineage import repeat
from fairbench.registry import methods, policies
from fairbench.report.flows import Run, confusion_over, shares
from fairbench.report.html.boards import Board
from fairbench.report.html.charts import NARROW, WIDTH, Chart, Mark, dots
from fairbench.report.html.curves import curves
from fairbench.report.html.page import Values
from fairbench.report.html.reported import of_method
from fairbench.report.standings import Group, number

__all__ = ["method"]

Own = Mapping[tuple[str, str], Group]  # by checkpoint and attack
BEST = ("best", UNION)

FIGURES = ("average", "worst", "nsd")
COSTS = {
    "train_seconds": ("training", "s"),
    "eval_seconds": ("evaluation", "s"),
    "images_per_second": ("training speed", "images/s"),
    "forwards": ("images forward in training", ""),
    "backwards": ("images backward in training", ""),
    "flops": ("operations of the training", ""),
    "peak_memory_mb": ("most memory held", "MiB"),
}
FLOW_CLASSES, FLOW_ROWS = 20, 20


def method(board: Board, name: str) -> Values:
    """Return what the template shows of one method, teacher or warm start."""
    own = {key[1:]: group for key, group in board.groups.items() if key[0] == name}
    runs = board.runs.get(name, ())
    spec = runs[0][1]["spec"] if runs else {}
    facts = _facts(spec["method"]["name"] if spec else name)
    first = next(iter(own.values())).shown
    return {
        "name": name,
        "facts": facts,
        "paper": parse_citation(facts.get("citation", "")),
        "places": _places(board, name),
        "provenance": PROVENANCE.get(first["provenance"] or "", ""),
        "first": first,
        "seeds": max(len(group.runs) for group in own.values()),
        "figures": {kind: _figures(own, kind) for kind in ("best", "last")},
        "classes": _classes(board, own),
        "class_dots": _class_dots(board, own),
        "curves": curves(runs),
        "flow": _flow(board, runs),
        "reported": of_method(board.published, spec["method"]["name"] if spec else name),
        "costs": _costs(own),
        "settings": _settings(spec),
        "recipe": {key: value for key, value in spec.get("recipe", {}).items() if value is not None},
        "runs": [_origin(record) for _, record in runs],
        "needs": [role for role in ("teacher", "natural_teacher", "warm_start") if spec.get(role)],
        "commands": repeat(next(iter(own.values())).runs),
    }


def _facts(name: str) -> Values:
    """Return summary and citation of a registered method; empty where it is not installed."""
    known = methods.scan().get(name)
    return {} if known is None else {key: str(known.details.get(key) or "") for key in ("summary", "citation")}


def _places(board: Board, name: str) -> list[str]:
    """Say which rank a method has under the union and, if that covers some images only, under an attack on all."""
    attacks = (UNION, board.whole or UNION)
    said = [_place(board, name, attack) for attack in attacks if attack in board.rankings]
    return list(dict.fromkeys(filter(None, said)))


def _place(board: Board, name: str, attack: str) -> str:
    """Say in a sentence which rank a method has, and between which ranks it may lie."""
    ranks = board.rankings[attack]
    rows = ranks[ranks["method"] == name].to_dict("records")
    if not rows or name in ROLES:
        return ""
    row = rows[0]
    if pd.isna(row["rank"]):
        why = "trained with another budget than most methods of this board, or selected on the test set"
        return f"Not ranked: {why if board.ranked else 'the board is a smoke test or has settings of its own'}."
    shared = int((ranks["rank"] == row["rank"]).sum())
    under = "the union" if attack == UNION else attack
    said = f"Rank {row['rank']} of {ranks['rank'].count()} by the worst class under {under}"
    said += f", which {shared} methods share" if shared > 1 else ""
    if pd.isna(row["rank_lo"]):
        return f"{said}; without an interval, which needs three seeds of the method."
    behind = row["behind_best"]
    best = (
        "no method is better beyond chance" if behind == "no" else f"another method is better beyond chance ({behind})"
    )
    return f"{said}; over new seeds {row['rank_lo']} to {row['rank_hi']} (95 % interval); {best}."


def _figures(own: Own, kind: str) -> list[Values]:
    """A row per attack: the mean over seeds with its deviation, or a single run with its interval."""
    found = []
    for (checkpoint, attack), group in own.items():
        if checkpoint != kind:
            continue
        row: Values = {"attack": attack, "classes": group.worst_classes}
        for name in FIGURES:
            scale, digits = (1, 3) if name == "nsd" else (100, 1)
            value, low, high = (scale * end for end in group.spread(name))
            spread = f"± {scale * number(group.std.get(name)):.{digits}f}"
            if len(group.runs) == 1:
                spread = f"[{low:.{digits}f}, {high:.{digits}f}]"
            unknown = "nan" in spread
            row[name] = ("-" if math.isnan(value) else f"{value:.{digits}f}", "" if unknown else spread)
        found.append(row)
    return found


def _classes(board: Board, own: Own) -> Values:
    """Class accuracies on the best checkpoint, a column per attack."""
    best = {attack: group for (checkpoint, attack), group in own.items() if checkpoint == "best"}
    rows = []
    for name, column in zip(board.class_names, class_columns(list(board.frame)), strict=False):
        cells = []
        for group in best.values():
            deviation = number(group.std.get(column)) if len(group.runs) != 1 else math.nan
            spread = "" if math.isnan(deviation) else f"± {100 * deviation:.1f}"
            cells.append((number(group.shown[column]), spread))
        rows.append({"name": name, "cells": cells})
    columns = zip(*([share for share, _ in row["cells"]] for row in rows), strict=True)
    least = [min((share for share in column if share == share), default=None) for column in columns]
    return {"attacks": list(best), "rows": rows, "least": least}


def _class_dots(board: Board, own: Own) -> list[Chart]:
    """Each class under the union with one point per seed, for a wide screen and for a phone; empty without runs."""
    columns = class_columns(list(board.frame))
    runs = own[BEST].runs if BEST in own else []
    if not columns or not runs:
        return []
    rows = []
    for column, name in zip(columns, board.class_names, strict=False):
        values = [100 * number(run[column]) for run in runs]
        marks = [
            Mark(value, 0, name, f"{name}, seed {run['seed']}: {value:.1f} %", "member")
            for value, run in zip(values, runs, strict=True)
        ]
        if len(runs) > 1:
            mean = sum(values) / len(values)
            marks.append(Mark(mean, 0, name, f"{name}: {mean:.1f} %", "mean", "", (min(values), max(values))))
        rows.append((name, marks))
    return [dots(rows, x_title="accuracy under the union, %", high=100, width=width) for width in (WIDTH, NARROW)]


def _flow(board: Board, runs: Sequence[Run]) -> Values:
    """Shares of images by true and predicted class under the union; above twenty classes only the largest flows."""
    counts = confusion_over(runs, str(board.frame["protocol"].iloc[0]))
    if not counts.size:
        return {}
    part, names = shares(counts), board.class_names
    away = sorted(
        (
            (part[i, j], names[i], names[j])
            for i in range(len(part))
            for j in range(len(part))
            if i != j and counts[i, j]
        ),
        key=lambda flow: (-flow[0], flow[1], flow[2]),
    )
    return {"shares": part.tolist() if len(part) <= FLOW_CLASSES else None, "largest": away[:FLOW_ROWS]}


def _costs(own: Own) -> list[Values]:
    group, rows = own.get(BEST, Group()), []
    for name, (title, unit) in COSTS.items():
        value, deviation = number(group.shown.get(name)), number(group.std.get(name))
        spread = "" if math.isnan(deviation) or len(group.runs) == 1 else f" ± {_text(deviation)}"
        if not math.isnan(value):
            rows.append({"title": title, "text": f"{_text(value)}{spread} {unit}".strip()})
    return rows


def _settings(spec: Mapping[str, Any]) -> list[Values]:
    """Hyper-parameters of the runs, each with the source of its default, and the default where a run changed it."""
    rows = []
    for component, options in spec.get("method", {}).get("options", {}).items():
        declared = _declared(component)
        for name, value in options.items():
            default, source = declared.get(name, (value, "declared by a method that is not installed here"))
            given = tuple(value) if isinstance(value, list) else value
            if given != (tuple(default) if isinstance(default, list) else default):
                source = f"set for this method; otherwise {_text(default)} ({source})"
            rows.append({"name": f"{component}.{name}", "value": _text(value), "source": source})
    return rows


def _declared(component: str) -> dict[str, tuple[Any, str]]:
    for registry in (policies, methods):
        try:
            owner = registry.get(component)
        except FairbenchError:
            continue
        if owner is None:  # the method was a class when it ran, and is a composition now
            continue
        return {one.name: (one.default, one.source) for one in owner.hyper_parameters()}
    return {}


def _origin(record: Mapping[str, Any]) -> Values:
    origin, environment = record["provenance"], record["spec"]["environment"]
    return {
        "run_id": record["run_id"],
        "seed": record["seed"],
        "commit": origin["commit"] or "",
        "dirty": bool(origin["dirty"]),
        "torch": environment["torch"],
        "device": environment["device"],
        "weights": record["weights"]["best"],
        "epoch": record["cost"].get("best_epoch"),
        "created": origin["created"],
    }


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if abs(value) >= 1e9:
        return f"{value:.3g}"
    return f"{value:,.0f}".replace(",", "\u202f") if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"
