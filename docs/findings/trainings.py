"""The questions that histories and trials answer: class-wise signals over epochs and seeds, and the recipe."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from evidence import Answer, Board, boards_of, newest_with, pair_table, table
from numpy.typing import NDArray
from scipy.stats import rankdata

from fairbench.errors import FairbenchError
from fairbench.results.folder import RunFolder, find_runs
from fairbench.run.tuning.table import TrialRow, read_table

__all__ = ["recipe", "signals", "without_averaging"]

SUITES = ("digits", "digits-ablations", "cifar10-micro", "cifar10-small", "cifar100-micro")
EDGE = 1e-6
FloatArray = NDArray[np.float64]


def signals(root: Path) -> Answer:
    """How stable each class-wise vector is over epochs and seeds, and how many temperatures sit at a bound."""
    tables = []
    for suite in SUITES:
        boards = boards_of(root, suite)
        if not boards:
            continue
        ids, runs = set(boards[0].runs["run_id"]), dict[tuple[str, str], list[FloatArray]]()
        edges: dict[str, tuple[float, float]] = {}
        for folder, record in find_runs(root / "results", suite):
            if record["run_id"] in ids and record["spec"]["role"] == "student":
                edges[record["method"]] = _bounds(record["spec"]["method"])
                for vector, values in _vectors(folder).items():
                    runs.setdefault((record["method"], vector), []).append(values)
        rows = [_row(method, vector, found, edges[method]) for (method, vector), found in sorted(runs.items())]
        heads = ["method", "vector", "runs", "epoch to epoch", "seed to seed", "at a bound"]
        if rows:
            tables.append(f"{boards[0].label}:\n\n{table(heads, rows)}")
    pairs = [("absld", "absld_kl_risk")]
    steering = [pair_table(board, held)[0] for board, held in newest_with(root, SUITES, pairs)]
    said = (
        "`epoch to epoch` is the mean rank correlation over classes of a vector in one epoch with the next, over the "
        "second half of the run; `seed to seed` that of two seeds' last epochs; `at a bound` the share of temperatures "
        "that end at the lower or upper bound. "
    )
    said += "Cross-entropy against the student's KL as risk:" if steering else "Other risks than ABSLD's: not measured."
    status = "exploratory" if tables or steering else "not measured"
    return Answer(said, status, (*tables, *steering))


def without_averaging(root: Path, board: Board) -> list[str]:
    """Return the methods of a board with FAWA none of whose runs has averaged: no epoch was fair enough."""
    epochs = dict[str, list[int]]()
    averaging = board.runs[["fawa" in str(policies).split("+") for policies in board.runs["policies"]]]
    for method, run_id in sorted(set(averaging[["method", "run_id"]].itertuples(index=False, name=None))):
        history = RunFolder(root / "results" / board.path.parent.name / method / run_id).read_history()
        fair = [row["fair_epochs"] for row in history if "fair_epochs" in row]
        if fair:
            epochs.setdefault(method, []).append(int(float(fair[-1])))
    return [method for method, found in epochs.items() if not any(found)]


def recipe(root: Path) -> Answer:
    """How much the held-out score of a method depends on its learning rate and on its knobs."""
    tables = []
    for path in sorted((root / "tuning").glob("*/v*.csv")):
        try:
            trials = read_table(path)
        except FairbenchError:
            continue
        rows = _sensitivities(trials)
        if rows:
            heads = ["method", "trials", "best score", "lowest", "spread of rates", "spread of knobs", "standard error"]
            tables.append(f"{path.parent.name} {path.stem}, held-out score in percent:\n\n{table(heads, rows)}")
    if not tables:
        return Answer("No table of trials is committed.", "not measured")
    said = (
        "The score is (average + worst class) / 2 of held-out robust accuracy. A spread is the difference between the "
        "best and the lowest setting; the standard error is that of drawing the images, and seeds add to it."
    )
    return Answer(said, "exploratory", tuple(tables))


def _sensitivities(trials: Sequence[TrialRow]) -> list[list[str]]:
    rows = []
    for method in dict.fromkeys(row.method for row in trials):
        own = [row for row in trials if row.method == method]
        scored = [row for row in own if row.score is not None]
        if not scored:
            continue
        first = [row for row in scored if row.seed == scored[0].seed]
        rates = [row.score or 0.0 for row in first if json.loads(row.options) == {}]
        best = max(first, key=lambda row: row.score or 0.0)
        knobs = [row.score or 0.0 for row in first if row.recipe == best.recipe]
        scores = [row.score or 0.0 for row in scored]
        error = fmean(row.score_se or 0.0 for row in scored)
        figures = (max(scores), min(scores), _range(rates), _range(knobs), error)
        rows.append([method, str(len(own)), *("" if math.isnan(one) else f"{100 * one:.1f}" for one in figures)])
    return rows


def _range(values: Sequence[float]) -> float:
    return max(values) - min(values) if len(values) > 1 else math.nan


def _vectors(folder: RunFolder) -> dict[str, FloatArray]:
    """The class-wise columns of a history by their vector, float64 [epochs, classes]; none where it is not there."""
    try:
        history = folder.read_history()
    except FairbenchError:
        return {}
    names = [re.fullmatch(r"(\w+)\[(\d+)\]", name) for name in (history[0] if history else {})]
    vectors: dict[str, int] = {}
    for match in names:
        if match is not None:
            vectors[match[1]] = max(vectors.get(match[1], 0), int(match[2]) + 1)
    found = {}
    for vector, classes in vectors.items():
        rows = [[row.get(f"{vector}[{number}]") or "nan" for number in range(classes)] for row in history]
        found[vector] = np.array(rows, dtype=np.float64)
    return found


def _row(method: str, vector: str, runs: Sequence[FloatArray], bounds: tuple[float, float]) -> list[str]:
    steps = [_rank_correlation(a, b) for run in runs for a, b in pairwise(run[len(run) // 2 :])]
    ends = [run[-1] for run in runs]
    seeds = [_rank_correlation(a, b) for number, a in enumerate(ends) for b in ends[number + 1 :] if len(a) == len(b)]
    edge = ""
    if vector.startswith("temperature"):
        last = np.concatenate(ends)
        edge = f"{100 * float(np.mean((last <= bounds[0] + EDGE) | (last >= bounds[1] - EDGE))):.0f} %"
    return [method, vector, str(len(runs)), _mean(steps), _mean(seeds), edge]


def _bounds(method: Mapping[str, Any]) -> tuple[float, float]:
    fields = {name: value for part in method["options"].values() for name, value in part.items()}
    return float(fields.get("temperature_low", -math.inf)), float(fields.get("temperature_high", math.inf))


def _rank_correlation(one: FloatArray, other: FloatArray) -> float:
    """Spearman's correlation, nan where a side is constant or not known."""
    if np.isnan([*one, *other]).any() or np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def _mean(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{fmean(known):.2f}" if known else ""
