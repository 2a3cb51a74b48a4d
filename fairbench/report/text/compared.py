"""The sheets of a comparison of two methods and of published figures."""

from __future__ import annotations

import pandas as pd

from fairbench.leaderboard.comparison import Comparison
from fairbench.leaderboard.detectable import RECOMMENDED_SEEDS
from fairbench.leaderboard.headings import COMPARED
from fairbench.report.text.cells import Headings, in_percent
from fairbench.report.text.sheet import Sheet

__all__ = ["comparison_sheet", "published_sheet"]


def comparison_sheet(found: Comparison) -> Sheet:
    """Show where A wins and loses: figures, their difference with its interval, p alone and p in the order of tests."""
    figure, points, interval, alone, ordered, better = COMPARED
    headings: Headings = [(figure, True), (f"A {found.a} %", False), (f"B {found.b} %", False)]
    headings += [(points, False), (interval, False), (alone, False), (ordered, False), (better, True)]
    rows = []
    for one in found.differences:
        span = "" if pd.isna(one.low) else f"[{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
        winner = {"A": found.a, "B": found.b, "": ""}[one.winner]
        gap = f"{100 * one.difference:+.1f}"
        rows.append([one.figure, in_percent(one.a), in_percent(one.b), gap, span, _p(one.raw), _p(one.p), winner])
    seeds = f"seed{'s' if len(found.seeds) > 1 else ''} {', '.join(found.seeds)}"
    title = f"{found.a} against {found.b} under {found.attack}, {found.checkpoint} checkpoint, {seeds}"
    notes = [f"{found.verdict}."]
    if found.unit != "none":
        fixed = "the test images" if found.unit == "seeds" else "the weights"
        notes.append(f"Tests and intervals hold {fixed} fixed.")
    legend = {alone: "p alone: of this test by itself; exploratory where p, in the order of tests, is not significant."}
    if found.detectable:
        notes.append(f"Smallest detectable difference of these tests (80 % power, 5 % two-sided): {_found(found)}.")
    if pd.notna(found.relative):
        notes.append(f"Relative score of A on B (change of worst + change of average): {found.relative:+.3f}")
    undecided = () if any(one.winner for one in found.differences) else (better,)
    return Sheet(title, headings, rows, notes, (alone, *undecided, interval, points), legend=legend)


def _found(found: Comparison) -> str:
    points = {name: f"{100 * value:.1f} points" for name, value in found.detectable.items()}
    if found.unit == "seeds":
        fewest = min(found.counts)
        five = (
            f", {points['worst at five seeds']} with {RECOMMENDED_SEEDS} seeds" if fewest != RECOMMENDED_SEEDS else ""
        )
        return f"{points['worst']} of worst class with {fewest} seeds a method{five}"
    return f"{points['average']} over all images, {points['class']} within the smallest class"


def _p(value: float) -> str:
    return "" if pd.isna(value) else ("<0.0001" if value < 1e-4 else f"{value:.4f}")


def published_sheet(rows: pd.DataFrame, dataset: str) -> Sheet:
    """Show what papers report on a dataset, in percent as printed."""
    columns = ("method", "attack", "avg", "worst", "nsd", "architecture", "source", "venue", "table", "note")
    headings: Headings = [(name, name not in ("avg", "worst", "nsd")) for name in columns]
    cells = [["" if pd.isna(line[name]) else str(line[name]) for name in columns] for _, line in rows.iterrows()]
    note = (
        "As printed by their sources: other recipes, networks, attacks and selection, so no row is comparable with a "
        "measured one."
    )
    return Sheet(f"Published figures on {dataset}: {len(cells)} rows", headings, cells, [note])
