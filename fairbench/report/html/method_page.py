"""The page of one method on one board: figures, classes, state, flows, cost, settings, and how to run it again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fairbench.authoring.catalogue import PROVENANCE
from fairbench.errors import FairbenchError
from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard.classes import class_columns
from fairbench.registry import methods, policies
from fairbench.report.flows import Run, confusion_over, shares
from fairbench.report.html.boards import Board
from fairbench.report.html.charts import Chart, Mark, dots
from fairbench.report.html.curves import curves
from fairbench.report.html.reported import of_method
from fairbench.report.standings import Group, number

__all__ = ["method"]

Values = dict[str, Any]
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
    """Return everything that the template shows of one method or role."""
    own = {key[1:]: group for key, group in board.groups.items() if key[0] == name}
    runs = board.runs.get(name, ())
    spec = runs[0][1]["spec"] if runs else {}
    facts = _facts(spec["method"]["name"] if spec else name)
    first = next(iter(own.values())).shown
    return {
        "name": name,
        "facts": facts,
        "provenance": PROVENANCE.get(first["provenance"] or "", ""),
        "first": first,
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
        "commands": sorted({run["command"] for group in own.values() for run in group.runs if run["command"]}),
    }


def _facts(name: str) -> Values:
    """What its registration says of a method; nothing where it is not installed here."""
    known = methods.scan().get(name)
    return {} if known is None else {key: str(known.details.get(key) or "") for key in ("summary", "citation")}


def _figures(own: Own, kind: str) -> list[Values]:
    """A row per attack: the mean over seeds with its deviation, or a single run with its interval."""
    found = []
    for (checkpoint, attack), group in own.items():
        if checkpoint != kind:
            continue
        classes = dict.fromkeys(run["worst_class"] for run in group.runs if run["worst_class"])
        row: Values = {"attack": attack, "classes": ", ".join(classes)}
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
    return {"attacks": list(best), "rows": rows}


def _class_dots(board: Board, own: Own) -> Chart | None:
    """Each class under the union, one point a seed, in the order of the classes."""
    columns = class_columns(list(board.frame))
    runs = own[BEST].runs if BEST in own else []
    if not columns or not runs:
        return None
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
    return dots(rows, x_title="accuracy under the union, %", high=100)


def _flow(board: Board, runs: Sequence[Run]) -> Values:
    """True to predicted class under the union: the matrix, or above twenty classes its largest flows."""
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
    """Hyper-parameters as the runs had them, with the source of the default, or what the default would have been."""
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
        if owner is None:  # a method that was a class in its runs and has become a composition
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
