"""The sheet of a leaderboard's ranking, with the notes below it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from fairbench.leaderboard.classes import SHARED, with_shared
from fairbench.leaderboard.columns import CLASSES_INLINE
from fairbench.leaderboard.detectable import DISCORDANCE, RECOMMENDED_SEEDS
from fairbench.leaderboard.headings import RANKED
from fairbench.leaderboard.ranking import budget_of
from fairbench.report.text.cells import in_percent, interval_in_percent
from fairbench.report.text.sheet import Sheet
from fairbench.statistics.significance import MIN_SEEDS

__all__ = ["ranking_sheet"]

FIGURES = ("clean", "average", "worst")
LEFT = ("behind_best", "method", "worst_class", "flags", "whose")
MARKS = {
    "untuned": "Untuned, with the suite's recipe",
    "inherited": "With the settings of the method that they take apart",
}
LEGEND = {
    "ranks": "Ranks 95 %: where a method's rank may lie over new seeds, with the test images held fixed.",
    "ranks_new": "New images: the same over new seeds and new test images.",
    "behind_best": "Behind best: another method is higher beyond the chance of seeds, or of seeds and images, all "
    "methods of the board compared (5 %).",
    "true_worst": "True worst: estimate without the bias of a minimum, with its 95 % interval for new seeds and "
    "images; of a single run, for new images alone.",
}
# Columns of the ranking in the order in which a narrow terminal drops them. Rank, method and worst class always stay.
DROPPED = (
    *("nsd", "worst2", "relative", "ranks_new", "true_worst", "clean", "behind_best", "worst_class", "oracle"),
    *("seeds", "ranks", "flags", "average", "whose"),
)


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
    shown = ["rank", "ranks", "ranks_new", "behind_best", "method", "seeds", *FIGURES, "worst_class"]
    shown += [name for name in ("true_worst", "worst2") if frame[name].notna().any()] + ["nsd"]
    shown += [] if by in shown else [by]
    shown += ["oracle"] if oracle else []
    shown += ["relative"] if "relative" in frame else []
    shown += [f"class_{number}" for number in _classes(frame)] if classes else []
    shown += ["flags"] if (~frame["flags"].isin(["", "none"])).any() else []
    shown += ["whose"] if "whose" in frame else []
    if frame["rank_new_lo"].isna().all():
        shown.remove("ranks_new")
    if frame["rank_lo"].isna().all():
        shown = [name for name in shown if name not in ("ranks", "behind_best")]
    headings = [(RANKED.get(name, name).replace("class_", ""), name in LEFT) for name in shown]
    headings = [(f"{name} %" if name.isdecimal() else name, left) for name, left in headings]
    optional = [f"{number} %" for number in reversed(_classes(frame))] if classes else []
    optional += [RANKED.get(name, name) for name in DROPPED if name != by]
    rows = [[_cell(frame, line, name, oracle or {}) for name in shown] for _, line in frame.iterrows()]
    legend = {RANKED[name]: said for name, said in LEGEND.items()}
    if "worst_shared" in frame and frame["worst_shared"].any():
        legend[RANKED["worst_class"]] = SHARED
    return Sheet(title, headings, rows, _notes(frame, detectable or {}, bool(oracle)), optional, legend=legend)


def _cell(frame: pd.DataFrame, line: Any, name: str, oracle: Mapping[str, float]) -> str:
    """One cell of the ranking; a checkpoint selected on the test set shows no measured figure."""
    test = line["selection"] == "test"
    if name in FIGURES:
        return _spread(line, name, test)
    if name in ("ranks", "ranks_new"):
        low, high = (_whole(line[f"{name.replace('ranks', 'rank')}_{end}"]) for end in ("lo", "hi"))
        return f"{low}-{high}" if low else ""
    if name == "true_worst":
        ends = f" [{in_percent(line['true_worst_lo'])}, {in_percent(line['true_worst_hi'])}]"
        return "" if test or pd.isna(line[name]) else f"{in_percent(line[name])}{ends}"
    if name in ("nsd", "worst2"):
        return "" if test or pd.isna(line[name]) else f"{line[name]:.3f}" if name == "nsd" else in_percent(line[name])
    texts: dict[str, Callable[[], str]] = {
        "rank": lambda: _whole(line["rank"]),
        "behind_best": lambda: "" if pd.isna(line[name]) else str(line[name]),
        "method": lambda: f"{line['method']}{_mark(frame, line)}",
        "seeds": lambda: str(line["seeds"]),
        "worst_class": lambda: with_shared(str(line["worst_class"]), line.get("worst_shared", 0)),
        "whose": lambda: str(line["whose"]),
        "oracle": lambda: in_percent(oracle.get(str(line["method"]))),
        "relative": lambda: _signed(line["relative"]),
        "flags": lambda: str(line["flags"]).replace(";", ", "),
    }
    if name in texts:
        return texts[name]()
    return in_percent(line[name]) if name.startswith("class_") else _value(line, name)


def _notes(frame: pd.DataFrame, detectable: Mapping[str, float], oracle: bool) -> list[str]:
    said = [_detectable(detectable, frame)] if detectable else []
    if frame["rank_lo"].isna().all():
        said.append("No rank intervals: they need three seeds a method, five are recommended.")
    if any(_mark(frame, line) for _, line in frame.iterrows()):
        said.append("* not ranked: trained with another budget than the board's other methods.")
    said += _tuned(frame)
    if oracle:
        said.append("oracle: the checkpoint was selected on the test set; what it gains over the measured is optimism.")
    return said + _teachers(frame)


def _detectable(detectable: Mapping[str, float], frame: pd.DataFrame) -> str:
    """The smallest differences that `compare` finds."""
    found = {name: f"{100 * value:.1f}" for name, value in detectable.items()}
    parts = [f"two checkpoints {found['average']} points over all images"]
    parts += [f"{found['class']} within a class"] if "class" in found else []
    text = f"{' and '.join(parts)} (if {100 * DISCORDANCE:.0f} % of the images change, or as many as the difference)"
    if "worst" in found:
        counts = frame.loc[~frame["role"] & (frame["seeds"] >= MIN_SEEDS), "seeds"]
        text += f"; two methods with {counts.min()} seeds each {found['worst']} points of worst class"
        text += (
            f", with {RECOMMENDED_SEEDS} seeds {found['worst at five seeds']}"
            if counts.min() != RECOMMENDED_SEEDS
            else ""
        )
    return f"Smallest detectable difference by `compare` (80 % power, 5 % two-sided): {text}."


def _tuned(frame: pd.DataFrame) -> list[str]:
    """Which methods were not tuned, and what the intervals leave out of tuning."""
    if "tuning" not in frame:
        return []
    said = ["Intervals and tests hold the tuned settings fixed: that tuning may choose others is not in them."]
    for mark, meaning in MARKS.items():
        names = frame.loc[frame["tuning"] == mark, "method"]
        said += [f"{meaning}: {', '.join(names)}."] if len(names) else []
    return said


def _teachers(frame: pd.DataFrame) -> list[str]:
    """The accuracy of each class under the teacher, if that is a line or two."""
    said: list[str] = []
    if len(_classes(frame)) > CLASSES_INLINE:
        return said
    for _, line in frame[frame["role"]].iterrows():
        figures = ", ".join(f"{number}: {in_percent(line[f'class_{number}'])}" for number in _classes(frame))
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
    """A figure in percent with its deviation over seeds or its interval; `oracle` for a selection on the test set."""
    if test:
        return "oracle"
    deviation = line.get(f"{name}_std")
    if line["seeds"] > 1 and pd.notna(deviation):
        return f"{100 * line[name]:.1f} ± {100 * deviation:.1f}"
    if pd.notna(line.get(f"{name}_lo")):
        return interval_in_percent(line[name], line[f"{name}_lo"], line[f"{name}_hi"])
    return in_percent(line[name])


def _value(line: Any, name: str) -> str:
    value = line[name]
    if pd.isna(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _signed(value: float) -> str:
    return "" if pd.isna(value) else f"{value:+.3f}"


def _whole(value: Any) -> str:
    return "" if pd.isna(value) else str(int(value))
