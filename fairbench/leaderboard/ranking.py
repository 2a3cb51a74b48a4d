"""A leaderboard as a ranking: one row per method under one attack, with its rank and the rank's uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fairbench.errors import InvalidInput, UnknownName
from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard import columns
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.detection import ROLES
from fairbench.leaderboard.places import PLACES, places, worst_estimates
from fairbench.leaderboard.unrounded import AGGREGATES, unrounded

__all__ = ["attack_on_all_images", "budget_of", "oracle", "ranking", "ratios", "relative_score", "row_over_seeds"]

LOWER_IS_BETTER = ("nsd", "nsd_corrected", "gap", "gini", *(set(columns.COSTS) - {"images_per_second"}))
TEXTS = ("provenance", "architecture", "recipe_hash", "selection", "quick", "flags", "worst_class")


def ranking(
    board: pd.DataFrame,
    *,
    by: str = "worst",
    attack: str = UNION,
    checkpoint: str = "best",
    base: str | None = None,
    ranked: bool = True,
) -> pd.DataFrame:
    """Return one row per method: the ranked ones by a column's mean over seeds, then the unranked, then teachers.

    Columns: `rank`, `rank_lo`, `rank_hi` and `behind_best` (`fairbench.leaderboard.places`), method, seeds, every
    figure, cost and class accuracy with its `_std` over seeds, `clean` (the average without an attack), texts,
    `true_worst` with its `_lo` and `_hi` and `worst2`, `worst3` if the leaderboard has its classes, and `relative` to a
    base method. Figures are not rounded. If a file lacks the rows over seeds, they are computed from its runs. A method
    is ranked if it has the leaderboard's training budget and its checkpoint was not selected on the test set, on a
    `ranked` leaderboard that is no smoke test. Raises UnknownName, and InvalidInput for a class column that is in
    another file.
    """
    _known("attack", attack, board["attack"])
    _known("checkpoint", checkpoint, board["checkpoint"])
    declared = columns.column(by)
    chosen = board[board["checkpoint"] == checkpoint]
    _known(f"attack on the {checkpoint} checkpoint", attack, chosen["attack"])
    chosen = unrounded(chosen[chosen["attack"].isin([attack, "clean"])])
    under, clean = chosen[chosen["attack"] == attack], chosen[chosen["attack"] == "clean"]
    if by not in under.columns:
        raise InvalidInput(f"column {by!r} is not in this board: above 20 classes it is in the sibling .classes.csv")
    lines = [_line(str(method), rows, clean[clean["method"] == method]) for method, rows in under.groupby("method")]
    frame = pd.DataFrame(lines)
    frame = frame.merge(worst_estimates(under), on="method", how="left")
    if by not in frame:
        frame[by] = pd.Series([_shared(under[under["method"] == name], by) for name in frame["method"]])
    frame["role"] = frame["method"].isin(ROLES)
    frame["placed"] = _placed(frame) & ranked
    numeric = declared.type in ("integer", "number")
    rising = not numeric or by in LOWER_IS_BETTER
    ties = {} if by == "average" else {"average": False}
    order = {"role": True, "placed": False, by: rising, **ties, "method": True}
    frame = frame.sort_values([*order], ascending=[*order.values()], na_position="last", ignore_index=True)
    placed = frame.pop("placed")
    frame.insert(0, "rank", _ranks(frame[by], placed, rising, numeric))
    names = [str(name) for name in frame["method"][placed]]
    found = places(under, names, by, rising) if numeric and names else pd.DataFrame(columns=[*PLACES])
    for position, (name, kind) in enumerate(PLACES.items(), start=1):
        frame.insert(position, name, frame["method"].map(found[name].to_dict()).astype(kind))  # type: ignore[call-overload]
    if base is not None:
        _known("method", base, frame["method"])
        frame["relative"] = relative_score(frame, base)
    return frame


def attack_on_all_images(board: pd.DataFrame, *, checkpoint: str = "best") -> str | None:
    """Return the strongest attack on all test images if the union covers a part of them, otherwise None.

    The strongest attack is the one with the lowest average over the leaderboard's rows.
    """
    rows = board[(board["checkpoint"] == checkpoint) & ~board["seed"].isin(AGGREGATES)]
    union = rows.loc[rows["attack"] == UNION, "n"]
    whole = rows[(rows["n"] == rows["n"].max()) & ~rows["attack"].isin(["clean", UNION])]
    if union.empty or whole.empty or union.max() >= rows["n"].max():
        return None
    return str(whole.groupby("attack")["average"].mean().idxmin())


def relative_score(frame: pd.DataFrame, base: str) -> pd.Series[float]:
    """Return (worst - worst0) / worst0 + (average - average0) / average0 of every row relative to the base method's.

    nan if the base method's figure is 0. Source: DAFA (Lee et al., ICLR 2024), the rho of its tables.
    """
    first = frame[frame["method"] == base].iloc[0]
    worst, average = ((frame[name] - first[name]) / (first[name] or math.nan) for name in ("worst", "average"))
    total: pd.Series[float] = worst + average
    return total


def ratios(frame: pd.DataFrame, base: str, columns: Sequence[str]) -> pd.DataFrame:
    """Return the columns divided by the base method's; raises UnknownName."""
    _known("method", base, frame["method"])
    return frame[list(columns)] / frame[frame["method"] == base].iloc[0][list(columns)].replace(0, math.nan)


def row_over_seeds(rows: pd.DataFrame, names: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Return mean and sample deviation over seeds: the leaderboard's own rows or, if it has none, those of its runs."""
    runs = rows[~rows["seed"].isin(AGGREGATES)][names].astype("float64")
    found = []
    for seed, computed in zip(AGGREGATES, (runs.mean(), runs.std(ddof=1)), strict=True):
        own = rows[rows["seed"] == seed]
        row = own.iloc[0] if len(own) else computed
        found.append({name: float(row[name]) for name in names})
    return found[0], found[1]


def oracle(path: Path, board: pd.DataFrame, *, attack: str = UNION, checkpoint: str = "best") -> dict[str, float]:
    """Return the worst class of methods whose checkpoint was selected on the test set, by method.

    The rows are on this leaderboard, or on one beside it (from `--set selection.rule=test`) with the same data, network
    and training budget. Their distance to the measured column is the optimism of selection on the test set.
    """
    found: dict[str, float] = {}
    same = ["data_hash", "architecture", "budget", "n"]
    means = board[board["seed"] == "mean"].drop_duplicates("method")
    ours = means.assign(budget=budget_of(means)).set_index("method")[same]
    for other in sorted(path.parent.glob("v*.csv")):
        if other.name.endswith(".classes.csv"):
            continue
        frame = board if other == path else load_leaderboard(other)
        rows = frame[(frame["attack"] == attack) & (frame["checkpoint"] == checkpoint) & (frame["seed"] == "mean")]
        for _, row in rows.assign(budget=budget_of(rows))[rows["selection"] == "test"].iterrows():
            method = str(row["method"])
            if other == path or (method in ours.index and list(row[same]) == list(ours.loc[method])):
                found[method] = float(row["worst"])
    return found


def _line(method: str, rows: pd.DataFrame, clean: pd.DataFrame) -> dict[str, object]:
    runs = rows[~rows["seed"].isin(AGGREGATES)]
    seeds = len(runs) or int(rows["seeds"].max())
    line: dict[str, object] = {
        "method": method,
        "seeds": seeds,
        "clean": row_over_seeds(clean, ["average"])[0]["average"],
    }
    classes = [name for name in rows.columns if name.startswith("class_")]
    measured = [name for name in ("train_robust",) if name in rows.columns]
    means, deviations = row_over_seeds(rows, [*columns.FIGURES, *classes, *columns.COSTS, *measured])
    for end in columns.ENDS:  # intervals exist for single runs only
        means[end] = float(runs[end].iloc[0]) if len(runs) == 1 and pd.notna(runs[end].iloc[0]) else math.nan
        deviations[end] = math.nan
    for name, value in means.items():
        line |= {name: value, f"{name}_std": deviations[name]}
    texts = [*TEXTS, *(name for name in ("budget_hash", "tuning", "whose") if name in rows.columns)]
    return line | {name: _shared(rows if runs.empty else runs, name) for name in texts}


def _shared(rows: pd.DataFrame, name: str) -> object:
    """Return the value of the rows in this column, or all different values joined by commas."""
    values = [value for value in dict.fromkeys(rows[name].dropna()) if value != "none" or name != "flags"]
    if name == "flags" and not values:
        return "none" if rows[name].notna().all() else ""
    return values[0] if len(values) == 1 else ", ".join(map(str, values))


def budget_of(rows: pd.DataFrame) -> pd.Series[str]:
    """Return the value that rows must share to be ranked together: their budget or, without one, the recipe's hash."""
    if "budget_hash" not in rows.columns:
        return rows["recipe_hash"]
    return rows["budget_hash"].fillna(rows["recipe_hash"])


def _placed(frame: pd.DataFrame) -> pd.Series[bool]:
    """Whether a method is ranked: no teacher, smoke test or selection on the test set, and the common budget.

    That is the most frequent budget of its tuned methods if there are any, else of its methods.
    """
    students = frame[~frame["role"]]
    if "tuning" in frame:
        tuned = students[students["tuning"].isin(["tuned", "inherited"])]
        students = tuned if len(tuned) else students
    budget = budget_of(students).mode()
    own = budget_of(frame) == (budget.iloc[0] if len(budget) else "")
    return ~frame["role"] & (frame["quick"] == False) & (frame["selection"] != "test") & own  # noqa: E712


def _ranks(figures: pd.Series[Any], placed: pd.Series[bool], rising: bool, numeric: bool) -> pd.Series[Any]:
    """Return ranks from 1 on of the ranked methods; equal figures share the first of their ranks."""
    if not numeric:
        return placed.cumsum().where(placed).astype("Int64")
    own = figures.where(placed).astype("float64").round(9)
    return own.rank(method="min", ascending=rising).astype("Int64")


def _known(kind: str, name: str, column: pd.Series[str]) -> None:
    known = [str(value) for value in column.dropna().unique()]
    if name not in known:
        raise UnknownName(f"{kind} of this board", name, known)
