"""The sheet with the costs of training."""

from __future__ import annotations

import math

import pandas as pd

from fairbench.leaderboard.ranking import ratios
from fairbench.report.text.cells import Headings, in_percent, with_deviation
from fairbench.report.text.sheet import Sheet

__all__ = ["cost_sheet"]

COSTS = ("train_seconds", "forwards", "backwards", "flops", "peak_memory_mb")
FORMATS = {"train_seconds": ".1f", "forwards": ",.0f", "backwards": ",.0f", "flops": ".3g", "peak_memory_mb": ".1f"}


def cost_sheet(title: str, frame: pd.DataFrame, base: str | None) -> Sheet:
    """Show the cost of training and, with a base method, its ratio to that of the base."""
    shown = {"train_seconds": "train s", "forwards": "forwards", "backwards": "backwards", "flops": "flops"}
    shown["peak_memory_mb"] = "peak MiB"
    times = ratios(frame, base, COSTS) if base else None
    trained = "train_robust" in frame
    headings: Headings = [("method", True), ("seeds", False)]
    headings += [("robust in training %", False)] if trained else []
    for name in COSTS:
        headings += [(shown[name], False)] + ([(f"/ {base}", False)] if times is not None else [])
    rows = []
    for index, (_, line) in enumerate(frame.iterrows()):
        cells = [str(line["method"]), str(line["seeds"])] + ([in_percent(line["train_robust"])] if trained else [])
        for name in COSTS:
            deviation = line.get(f"{name}_std", math.nan) if name == "train_seconds" else math.nan
            cells.append(with_deviation(line[name], deviation, FORMATS[name]))
            if times is not None:
                ratio = times[name].iloc[index]
                cells.append("-" if pd.isna(ratio) else f"{ratio:.2f}×")
        rows.append(cells)
    note = "Training without selection, with the warm start where a method has one. A teacher's cost is in its own row."
    notes = [note, *_trained(frame)]
    return Sheet(title, headings, rows, notes)


def _trained(frame: pd.DataFrame) -> list[str]:
    """How robust the teacher was on its own training images, for comparison with its students."""
    if "train_robust" not in frame:
        return []
    own = frame.loc[frame["method"] == "teacher", "train_robust"].dropna()
    beside = f"; the teacher withstood {in_percent(own.iloc[0])} % of its own" if len(own) else ""
    return [
        "Robust in training: training images that withstood the training attack in the last epoch. Far below the "
        f"teacher's it is a sign of under-training{beside}. Tuning's trials are not in the costs."
    ]
