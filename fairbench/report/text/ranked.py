"""Sheets of a leaderboard: the ranking, what training costs, two methods compared, and what papers report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fairbench.leaderboard.comparison import Comparison
from fairbench.leaderboard.ranking import DISCORDANCE, budget_of, ratios
from fairbench.report.text.sheet import Sheet

__all__ = ["comparison_sheet", "cost_sheet", "published_sheet", "ranking_sheet"]

FIGURES = {"clean": "clean %", "average": "average %", "worst": "worst class %"}
COSTS = ("train_seconds", "forwards", "backwards", "flops", "peak_memory_mb")
FORMATS = {"train_seconds": ".1f", "forwards": ",.0f", "backwards": ",.0f", "flops": ".3g", "peak_memory_mb": ".1f"}
MARKS = {
    "untuned": "Untuned, with the suite's recipe",
    "inherited": "With the settings of the method that they take apart",
}
Headings = list[tuple[str, bool]]


def ranking_sheet(
    title: str,
    frame: pd.DataFrame,
    *,
    by: str = "worst",
    oracle: Mapping[str, float] | None = None,
    detectable: Mapping[str, float] | None = None,
    classes: bool = False,
) -> Sheet:
    """Show what `ranking` returns: mean ± deviation over seeds, or one run's 95 % interval.

    `oracle` holds the worst class of checkpoints selected on the test set, `detectable` the smallest differences that
    the board can tell.
    """
    extra = [] if by in {*FIGURES, "worst_class", "nsd", "worst_crossfit", "method"} else [by]
    flagged = bool((frame["flags"] != "").any())
    headings: Headings = [("#", False), ("tier", False), ("method", True), ("seeds", False)]
    headings += [*((name, False) for name in FIGURES.values()), ("class", True), ("cross-fit %", False), ("NSD", False)]
    headings += [(name, False) for name in extra] + ([("oracle worst %", False)] if oracle else [])
    headings += [("relative", False)] if "relative" in frame else []
    numbers = _classes(frame) if classes else []
    headings += [(f"{number} %", False) for number in numbers] + ([("red flags", True)] if flagged else [])
    rows = []
    for _, line in frame.iterrows():
        test = line["selection"] == "test"
        cells = [
            _whole(line["rank"]),
            _whole(line["tier"]),
            f"{line['method']}{_mark(frame, line)}",
            str(line["seeds"]),
        ]
        cells += [_spread(line, name, test) for name in FIGURES]
        cells += [str(line["worst_class"]), *(_measured(line, name, test) for name in ("worst_crossfit", "nsd"))]
        cells += [_value(line, name) for name in extra]
        cells += [_percent((oracle or {}).get(str(line["method"])))] if oracle else []
        cells += [_signed(line["relative"])] if "relative" in frame else []
        cells += [_percent(line[f"class_{number}"]) for number in numbers]
        cells += [str(line["flags"]).replace(";", ", ")] if flagged else []
        rows.append(cells)
    return Sheet(title, headings, rows, _notes(frame, detectable or {}, bool(oracle)))


def cost_sheet(title: str, frame: pd.DataFrame, base: str | None) -> Sheet:
    """Show what training costs, and how many times as much as the base method."""
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
        cells = [str(line["method"]), str(line["seeds"])] + ([_percent(line["train_robust"])] if trained else [])
        for name in COSTS:
            deviation = f" ± {line[f'{name}_std']:.1f}" if line["seeds"] > 1 and name == "train_seconds" else ""
            cells.append(f"{line[name]:{FORMATS[name]}}{deviation}")
            if times is not None:
                cells.append(f"{times[name].iloc[index]:.2f}×")
        rows.append(cells)
    note = "Training and selection alone: a teacher's or warm start's cost stands in its own row and is paid once."
    notes = [note, *_trained(frame)]
    return Sheet(title, headings, rows, notes)


def _trained(frame: pd.DataFrame) -> list[str]:
    """How robust the teacher was on its own training images, for comparison with its students."""
    if "train_robust" not in frame:
        return []
    own = frame.loc[frame["method"] == "teacher", "train_robust"].dropna()
    beside = f"; the teacher withstood {_percent(own.iloc[0])} % of its own" if len(own) else ""
    return [
        "Robust in training: training images that withstood the training attack in the last epoch. Far below the "
        f"teacher's it is a sign of under-training{beside}. Tuning's trials are not in the costs."
    ]


def comparison_sheet(found: Comparison) -> Sheet:
    """Show where A wins and loses: figures, their difference with its interval, and p after Holm."""
    headings: Headings = [("figure", True), (f"A {found.a} %", False), (f"B {found.b} %", False)]
    headings += [("A - B points", False), ("95 % interval", False), ("p (Holm)", False), ("better", True)]
    rows = []
    for one in found.differences:
        span = "" if pd.isna(one.low) else f"[{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
        chance = "" if pd.isna(one.p) else ("<0.0001" if one.p < 1e-4 else f"{one.p:.4f}")
        better = {"A": found.a, "B": found.b, "": ""}[one.winner]
        gap = f"{100 * one.difference:+.1f}"
        rows.append([one.figure, _percent(one.a), _percent(one.b), gap, span, chance, better])
    seeds = f"seed{'s' if len(found.seeds) > 1 else ''} {', '.join(found.seeds)}"
    title = f"{found.a} against {found.b} under {found.attack}, {found.checkpoint} checkpoint, {seeds}"
    notes = [f"{found.verdict}."]
    if pd.notna(found.relative):
        notes.append(f"Relative score of A on B (change of worst + change of average): {found.relative:+.3f}")
    return Sheet(title, headings, rows, notes)


def published_sheet(rows: pd.DataFrame, dataset: str) -> Sheet:
    """Show what papers report on a data set, percent as printed."""
    columns = ("method", "attack", "avg", "worst", "nsd", "architecture", "source", "venue", "table", "note")
    headings: Headings = [(name, name not in ("avg", "worst", "nsd")) for name in columns]
    cells = [["" if pd.isna(line[name]) else str(line[name]) for name in columns] for _, line in rows.iterrows()]
    note = (
        "As printed by their sources: other recipes, networks, attacks and selection, so no row is comparable with a "
        "measured one."
    )
    return Sheet(f"Published figures on {dataset}: {len(cells)} rows", headings, cells, [note])


def _notes(frame: pd.DataFrame, detectable: Mapping[str, float], oracle: bool) -> list[str]:
    said = []
    if detectable:
        found = {name: f"{100 * value:.1f}" for name, value in detectable.items()}
        parts = [f"two checkpoints {found['average']} points over all images"]
        parts += [f"{found['class']} within a class"] if "class" in found else []
        text = (
            f"{' and '.join(parts)} (if {100 * DISCORDANCE:.0f} % of the images change, or as many as the difference)"
        )
        text += f"; two methods over their seeds {found['worst']} points of worst class" if "worst" in found else ""
        said.append(f"Smallest detectable difference (80 % power, 5 % one-sided, one comparison): {text}.")
    tiered = (
        "Tier 1: down to the last method not told from the best by seeds at 5 % (Tukey's range over all methods); "
        "tier 2: the same below."
    )
    said.append("No tiers: they need three seeds a method." if frame["tier"].isna().all() else tiered)
    if any(_mark(frame, line) for _, line in frame.iterrows()):
        said.append("* not ranked: trained with another budget than the board's other methods.")
    if "tuning" in frame:
        said.append("Intervals and tests hold the tuned settings fixed: that tuning may choose others is not in them.")
        for mark, meaning in MARKS.items():
            names = frame.loc[frame["tuning"] == mark, "method"]
            said += [f"{meaning}: {', '.join(names)}."] if len(names) else []
    if oracle:
        said.append("oracle: the checkpoint was selected on the test set; what it gains over the measured is optimism.")
    for _, line in frame[frame["role"]].iterrows():
        figures = ", ".join(f"{number}: {_percent(line[f'class_{number}'])}" for number in _classes(frame))
        if line["method"] == "teacher" and figures:
            said.append(f"Class by class, the teacher has {figures} %.")
    return said


def _mark(frame: pd.DataFrame, line: Any) -> str:
    ranked, budgets = frame["rank"].notna(), budget_of(frame)
    other = ranked.any() and budgets[line.name] != budgets[ranked].iloc[0]
    return " *" if other and not line["role"] and pd.isna(line["rank"]) else ""


def _classes(frame: pd.DataFrame) -> Sequence[int]:
    return range(sum(name.startswith("class_") and not name.endswith("_std") for name in frame.columns))


def _spread(line: Any, name: str, test: bool) -> str:
    """A figure in percent and its deviation over seeds or its interval; nothing for what the test set selected."""
    if test:
        return "oracle"
    deviation = line.get(f"{name}_std")
    if line["seeds"] > 1 and pd.notna(deviation):
        return f"{100 * line[name]:.1f} ± {100 * deviation:.1f}"
    if f"{name}_lo" in line:
        return f"{100 * line[name]:.1f} [{100 * line[f'{name}_lo']:.1f}, {100 * line[f'{name}_hi']:.1f}]"
    return _percent(line[name])


def _measured(line: Any, name: str, test: bool) -> str:
    if test or pd.isna(line[name]):
        return ""
    return f"{line[name]:.3f}" if name == "nsd" else _percent(line[name])


def _value(line: Any, name: str) -> str:
    value = line[name]
    if pd.isna(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _percent(value: Any) -> str:
    return "" if value is None or pd.isna(value) else f"{100 * value:.1f}"


def _signed(value: float) -> str:
    return "" if pd.isna(value) else f"{value:+.3f}"


def _whole(value: Any) -> str:
    return "" if pd.isna(value) else str(int(value))
