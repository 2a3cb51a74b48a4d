"""A leaderboard as a ranking: one row per method under one attack, with its rank and the rank's uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairbench.errors import InvalidInput, UnknownName
from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard import columns
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.classes import shared_worst
from fairbench.leaderboard.columns import AGGREGATES, ROLES
from fairbench.leaderboard.rank_intervals import PLACES, places
from fairbench.leaderboard.unrounded import unrounded
from fairbench.leaderboard.worst_estimates import worst_estimates

__all__ = ["attack_on_all_images", "budget_of", "oracle", "over_seeds", "ranking", "ratios", "relative_score"]

LOWER_IS_BETTER = ("nsd", "nsd_corrected", "gap", "gini", *(set(columns.COSTS) - {"images_per_second"}))
MEASURED = (*columns.FIGURES, *columns.COSTS, "train_robust")
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

    Columns: `rank`, `rank_lo`, `rank_hi` and `behind_best` (`rank_intervals.places`), method, seeds, every figure, cost
    and class accuracy with its `_std` over seeds, `clean` (the average without an attack), texts, `true_worst` with its
    `_lo` and `_hi`, `worst2`, `worst3` and `worst_shared` (how many further classes are as low in a run as those of
    `worst_class`) if the leaderboard has its classes, and `relative` to a base method. Figures are not rounded. If a
    file lacks the rows over seeds, they are computed from its runs. A method is ranked if it has the leaderboard's
    training budget and its checkpoint was not selected on the test set, on a `ranked` leaderboard that is no smoke
    test. Raises UnknownName, and InvalidInput for a column that is no figure or that is in another file.
    """
    _known("attack", attack, board["attack"])
    _known("checkpoint", checkpoint, board["checkpoint"])
    _require_figure(by)
    chosen = board[board["checkpoint"] == checkpoint]
    _known(f"attack on the {checkpoint} checkpoint", attack, chosen["attack"])
    chosen = unrounded(chosen[chosen["attack"].isin([attack, "clean"])])
    under, clean = chosen[chosen["attack"] == attack], chosen[chosen["attack"] == "clean"]
    if by not in under.columns:
        raise InvalidInput(f"column {by!r} is not in this board: above 20 classes it is in the sibling .classes.csv")
    frame = _lines(under, clean).merge(worst_estimates(under), on="method", how="left")
    frame = frame.copy()  # joins the columns of many classes, each of which lies by itself
    frame["role"] = frame["method"].isin(ROLES)
    frame["placed"] = _placed(frame) & ranked
    rising = by in LOWER_IS_BETTER
    ties = {} if by == "average" else {"average": False}
    order = {"role": True, "placed": False, by: rising, **ties, "method": True}
    frame = frame.sort_values(
        [*order], ascending=[*order.values()], na_position="last", ignore_index=True, key=_without_noise
    )
    placed = frame.pop("placed")
    frame.insert(0, "rank", _ranks(frame[by], placed, rising))
    names = [str(name) for name in frame["method"][placed & frame[by].notna()]]
    found = places(under, names, by, rising) if names else pd.DataFrame(columns=[*PLACES])
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


def over_seeds(rows: pd.DataFrame, names: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return mean and sample deviation over seeds, a row per method and a float64 column per name.

    They are the leaderboard's own rows or, for a method that has none, those of its runs; nan where neither is there,
    and where a run lacks the figure, as in a leaderboard's own rows.
    """
    figures = rows[["method", "seed"]].join(rows[list(names)].astype("float64"))
    runs = figures[~figures["seed"].isin(AGGREGATES)].groupby("method")[list(names)]
    whole = runs.count().eq(runs.size(), axis=0)
    methods, found = pd.Index(figures["method"].dropna().unique(), name="method"), []
    for seed, computed in zip(AGGREGATES, (runs.mean().where(whole), runs.std(ddof=1).where(whole)), strict=True):
        own = figures[figures["seed"] == seed].drop_duplicates("method").set_index("method")[list(names)]
        found.append(pd.concat([own, computed[~computed.index.isin(own.index)]]).reindex(methods))
    return found[0], found[1]


def oracle(path: Path, board: pd.DataFrame, *, attack: str = UNION, checkpoint: str = "best") -> dict[str, float]:
    """Return the worst class of methods whose checkpoint was selected on the test set, by method.

    The rows are on this leaderboard, or on one beside it (from `--set selection.rule=test`) with the same data, network
    and training budget. Their distance to the measured column is the optimism of selection on the test set.
    """
    found: dict[str, float] = {}
    same = ["data_hash", "architecture", "budget", "n"]
    means = board[(board["attack"] == attack) & (board["checkpoint"] == checkpoint) & (board["seed"] == "mean")]
    means = means.drop_duplicates("method")
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


def _lines(under: pd.DataFrame, clean: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of `ranking` that need no order, a row per method, sorted by name."""
    runs = under[~under["seed"].isin(AGGREGATES)]
    counted = runs.groupby("method").size()
    methods = under.groupby("method")
    seeds = counted.reindex(methods.size().index).fillna(methods["seeds"].max()).astype("int64")
    lines: dict[str, Any] = {"seeds": seeds, "clean": over_seeds(clean, ["average"])[0]["average"]}
    classes = [name for name in under.columns if name.startswith("class_")]
    names = [*columns.FIGURES, *classes, *columns.COSTS, *(name for name in ("train_robust",) if name in under)]
    means, deviations = over_seeds(under, names)
    for name in names:
        lines |= {name: means[name], f"{name}_std": deviations[name]}
    single = runs[runs["method"].isin(counted[counted == 1].index)].set_index("method")
    for end in columns.ENDS:  # intervals exist for single runs only
        lines |= {end: single[end].astype("float64"), f"{end}_std": math.nan}
    if classes:
        shared = {
            name: shared_worst(own[classes].to_numpy(np.float64), own["worst_class"].nunique())
            for name, own in runs.groupby("method")[[*classes, "worst_class"]]
        }
        lines["worst_shared"] = pd.Series(shared, dtype="int64").reindex(seeds.index, fill_value=0)
    told = pd.concat([runs, under[~under["method"].isin(counted.index)]])
    for name in (*TEXTS, *(name for name in ("budget_hash", "tuning", "whose") if name in under)):
        lines[name] = pd.Series(_shared(told, name))
    return pd.DataFrame(lines, index=seeds.index).reset_index(names="method").astype({"method": "str"})


def _shared(rows: pd.DataFrame, name: str) -> dict[str, object]:
    """Return each method's value in this column, or all different values joined by commas."""
    found: dict[str, dict[object, None]] = {method: {} for method in rows["method"].dropna()}
    for method, value in zip(rows["method"], rows[name], strict=True):
        if method in found:
            found[method][None if pd.isna(value) else value] = None
    return {method: _joined(name, list(values)) for method, values in found.items()}


def _joined(name: str, different: Sequence[object]) -> object:
    values = [value for value in different if value is not None and (name != "flags" or value != "none")]
    if name == "flags" and not values:
        return "" if None in different else "none"
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


def _ranks(figures: pd.Series[Any], placed: pd.Series[bool], rising: bool) -> pd.Series[Any]:
    """Return ranks from 1 on of the ranked methods; equal figures share the first of their ranks."""
    own = figures.where(placed).astype("float64").round(9)
    return own.rank(method="min", ascending=rising).astype("Int64")


def _without_noise(column: pd.Series[Any]) -> pd.Series[Any]:
    """Round figures so that means which differ by the order of their sums alone are equal."""
    return column.round(12) if pd.api.types.is_float_dtype(column) else column


def _require_figure(name: str) -> None:
    """Raise UnknownName for no column of boards, and InvalidInput for one that says nothing of how good a method is."""
    columns.column(name)
    if name not in MEASURED and not name.startswith("class_"):
        raise InvalidInput(f"column {name!r} is no figure to rank by: {', '.join(MEASURED)}, class_0 and so on are")


def _known(kind: str, name: str, column: pd.Series[str]) -> None:
    known = [str(value) for value in column.dropna().unique()]
    if name not in known:
        raise UnknownName(f"{kind} of this board", name, known)
