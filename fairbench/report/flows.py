"""Counts of images by true class and by class predicted under attack, over the seeds of a method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairbench.errors import Missing, UnknownName
from fairbench.evaluation.verdicts import UNION
from fairbench.results.folder import RunFolder, find_runs
from fairbench.statistics import metrics

__all__ = ["Run", "confusion_over", "flow_matrix", "runs_by_method", "shares"]

Run = tuple[RunFolder, Mapping[str, Any]]


def runs_by_method(board: pd.DataFrame, results: Path) -> dict[str, list[Run]]:
    """Return the run folders of a board's rows by method, in the order of the seeds.

    A row without a folder below `results` is left out. Raises CorruptFile for a damaged folder.
    """
    wanted = set(board["run_id"].dropna())
    found: dict[str, list[Run]] = {}
    for suite in sorted(set(board["suite"].dropna())):
        if Path(suite).name != suite:
            continue
        for folder, record in find_runs(results, suite):
            if record["run_id"] in wanted:
                found.setdefault(record["method"], []).append((folder, record))
    return {method: sorted(runs, key=lambda run: int(run[1]["seed"])) for method, runs in found.items()}


def confusion_over(
    runs: Iterable[Run], protocol: str, *, attack: str = UNION, checkpoint: str = "best"
) -> NDArray[Any]:
    """Count images by true (row) and predicted class (column) over runs, int64 [C, C].

    `protocol` is the hash of the board's protocol, which defines the attacks of the union.
    """
    total: NDArray[Any] = np.zeros((0, 0), dtype=np.int64)
    for folder, record in runs:
        verdicts = folder.read_verdicts()
        listed: Mapping[str, Any] = next((one for one in record["protocols"].values() if one["hash"] == protocol), {})
        texts = listed.get(checkpoint, ()) if attack == UNION else (attack,)
        asked = {text: verdicts[f"{checkpoint}/{text}"] for text in texts if f"{checkpoint}/{text}" in verdicts}
        if asked:
            labels = verdicts["labels"]
            counts = metrics.confusion(labels, metrics.union(labels, asked), len(record["class_names"]))
            total = counts + (total if total.size else 0)
    return total


def flow_matrix(
    board: pd.DataFrame, method: str, results: Path, *, attack: str = UNION, checkpoint: str = "best"
) -> tuple[NDArray[np.float64], list[str]]:
    """Return the shares [C, C] of each class's images by predicted class, over all seeds, and the class names.

    Rows sum to 1, except for images whose verdict names no class. Raises UnknownName for a method, attack or checkpoint
    that the board lacks, and Missing where there is no run folder.
    """
    for column, name in (("method", method), ("attack", attack), ("checkpoint", checkpoint)):
        if name not in set(board[column]):
            raise UnknownName(f"{column} of this board", name, map(str, board[column].dropna().unique()))
    runs = runs_by_method(board, results).get(method, [])
    counts = confusion_over(runs, str(board["protocol"].iloc[0]), attack=attack, checkpoint=checkpoint)
    if not counts.size:
        raise Missing(f"{results}: no verdicts of {method} under {checkpoint}/{attack}; `fairbench run` makes them")
    return shares(counts), list(runs[0][1]["class_names"])


def shares(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Divide a matrix of counts [C, C] by its row sums; the row of a class without images becomes NaN."""
    totals = counts.sum(axis=1, keepdims=True).astype(np.float64)
    divided: NDArray[np.float64] = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    return divided
