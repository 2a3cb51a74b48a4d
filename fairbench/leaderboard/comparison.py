"""Comparison of two methods or checkpoints of a leaderboard, class by class, with significance tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairbench.errors import CorruptFile, InvalidInput, Missing, UnknownName
from fairbench.evaluation.verdicts import UNION
from fairbench.files import checksum
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.classes import class_columns, with_classes
from fairbench.leaderboard.detection import ALPHA, RECOMMENDED_SEEDS, class_ratios, images_detectable, spread_of
from fairbench.leaderboard.ranking import relative_score
from fairbench.leaderboard.unrounded import AGGREGATES, unrounded
from fairbench.results.folder import RunFolder
from fairbench.statistics import metrics
from fairbench.statistics.moderated import difference_detectable, moderated_test
from fairbench.statistics.significance import MIN_SEEDS, gatekeep, mcnemar, paired_interval
from fairbench.statistics.worst_difference import worst_difference_interval, worst_difference_test

__all__ = ["Comparison", "Difference", "compare_rows"]

BoolArray = NDArray[np.bool_]
ORDERED = ("worst", "average")


@dataclass(frozen=True)
class Difference:
    """A figure of both sides, fractions; `low` to `high` is the 95 % interval of a - b, not corrected for other
    figures.

    `raw` is the two-sided p-value of this figure alone, `p` is adjusted for the whole comparison; both are nan without
    a test.
    """

    figure: str
    a: float
    b: float
    low: float = math.nan
    high: float = math.nan
    raw: float = math.nan
    p: float = math.nan

    @property
    def difference(self) -> float:
        """a - b."""
        return self.a - self.b

    @property
    def winner(self) -> Literal["A", "B", ""]:
        """The side that is significantly better at 5 %."""
        if not self.p <= ALPHA:
            return ""
        return "A" if self.a > self.b else "B"


@dataclass(frozen=True)
class Comparison:
    """Two sides under one attack at one checkpoint; `unit` is the unit of the tests, and so of the claim.

    `detectable` holds the smallest true differences, fractions, that the tests detect with power 80 %: `worst` and, for
    methods, `worst at five seeds`; for two checkpoints `average` and `class`.
    """

    a: str
    b: str
    unit: Literal["images", "seeds", "none"]
    seeds: tuple[str, ...]
    attack: str
    checkpoint: str
    differences: tuple[Difference, ...]
    relative: float
    detectable: Mapping[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The conclusion in one sentence."""
        if self.unit == "none":
            return (
                f"{len(self.seeds)} seeds in common: no method can be said to beat another below {MIN_SEEDS}, "
                f"{RECOMMENDED_SEEDS} are recommended; --seed compares two checkpoints"
            )
        wins = {side: [one.figure for one in self.differences if one.winner == side] for side in ("A", "B")}
        said = [
            f"{name} is better on {', '.join(wins[side])}"
            for side, name in (("A", self.a), ("B", self.b))
            if wins[side]
        ]
        found = "; ".join(said) or "no difference is significant"
        if self.unit == "seeds":
            return (
                f"{found} (t-tests over {len(self.seeds)} seeds with the board's variance; "
                "the worst class first, then the average, then the classes by Holm)"
            )
        return (
            f"{found} (McNemar's test by mid-p on the same images, Holm over {len(self.differences)} tests); "
            "this is about two checkpoints, not about the methods, whose unit is the seed"
        )


def compare_rows(
    path: Path,
    a: str,
    b: str,
    *,
    attack: str = UNION,
    checkpoint: str = "best",
    seed: str | None = None,
    board: pd.DataFrame | None = None,
) -> Comparison:
    """Compare two rows of a leaderboard, each given as a method's name or a run id.

    `board` replaces the content of the file, for example by rows merged with the committed ones (`merge.merged`).

    Two methods with three seeds each are compared over their seeds, with the moderated variance of
    `fairbench.statistics.moderated`. Two run ids, a `seed`, or a single common seed compare two checkpoints image by
    image, from the verdicts in the results beside the leaderboards. Otherwise nothing is tested. Over seeds the worst
    class is tested first, the average only if it differs, and the classes by Holm only if both differ. On images Holm's
    correction covers all figures, because a worst class of few images says little. Raises UnknownName for a method or
    an attack that is not on the leaderboard, InvalidInput for sides without a common seed, and Missing if verdicts are
    needed and absent.
    """
    board = load_leaderboard(path) if board is None else board
    rows = board[(board["attack"] == attack) & (board["checkpoint"] == checkpoint)]
    if rows.empty:
        raise UnknownName("attack of this checkpoint", attack, board[board["checkpoint"] == checkpoint]["attack"])
    runs = unrounded(with_classes(path, rows[~rows["seed"].isin(AGGREGATES)]))
    chosen = _chosen([_side(runs, name) for name in (a, b)], (a, b), seed)
    several: Literal["seeds", "none"] = "seeds" if min(map(len, chosen)) >= MIN_SEEDS else "none"
    single = all(len(side) == 1 for side in chosen)
    if single:
        differences, detected = _by_images(path, chosen, attack, checkpoint)
    else:
        differences, detected = _by_seeds(path, runs, chosen)
    means = pd.DataFrame([{"method": side, **_headline(rows)} for side, rows in zip("ba", chosen[::-1], strict=True)])
    return Comparison(
        a=a,
        b=b,
        unit="images" if single else several,
        seeds=tuple(sorted({str(value) for side in chosen for value in side["seed"]}, key=int)),
        attack=attack,
        checkpoint=checkpoint,
        differences=_adjusted(differences, () if single else ORDERED),
        relative=float(relative_score(means, "b").iloc[1]),
        detectable=detected,
    )


def _chosen(sides: Sequence[pd.DataFrame], names: Sequence[str], seed: str | None) -> list[pd.DataFrame]:
    """Return the compared runs: all runs if each side has three seeds, else those of the common seeds."""
    if seed is None and all(side["seed"].nunique() >= MIN_SEEDS for side in sides):
        return list(sides)
    common = set(sides[0]["seed"]) & set(sides[1]["seed"])
    common = {one for one in common if seed in (None, one)}
    by_run = any((side["run_id"] == name).any() for side, name in zip(sides, names, strict=True))
    chosen = [side if by_run and len(side) == 1 else side[side["seed"].isin(common)] for side in sides]
    if any(side.empty for side in chosen):
        wanted = f" that is {seed}" if seed else ""
        raise InvalidInput(f"{names[0]} and {names[1]} have no seed in common{wanted}: name two run ids")
    return chosen


def _side(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of a method or of one run."""
    for column in ("method", "run_id"):
        found = runs[runs[column] == name]
        if len(found):
            return found
    raise UnknownName("method or run of this board", name, [*runs["method"], *runs["run_id"]])


def _headline(rows: pd.DataFrame) -> dict[str, float]:
    return {name: float(rows[name].mean()) for name in ("average", "worst")}


def _by_seeds(
    path: Path, runs: pd.DataFrame, sides: Sequence[pd.DataFrame]
) -> tuple[list[Difference], dict[str, float]]:
    """Return the differences of means over seeds, tested from three seeds on, and what the test can detect."""
    classes = class_columns(list(runs))
    record = _folder(path, sides[0].iloc[0]).read()
    names = record["class_names"] if record else range(len(classes))
    headings = {"worst": "worst", "average": "average"}
    headings |= {column: f"class {name}" for column, name in zip(classes, names, strict=True)}
    scale = class_ratios(runs)
    ratios = (scale[str(sides[0]["method"].iloc[0])], scale[str(sides[1]["method"].iloc[0])])
    found, detected = [], {}
    for column, figure in headings.items():
        first, second = (side[column].dropna().to_numpy(dtype=np.float64) for side in sides)
        if not len(first) or not len(second):
            continue
        difference = Difference(figure, float(first.mean()), float(second.mean()))
        if min(len(first), len(second)) >= MIN_SEEDS:
            spread = spread_of(runs, column)
            test = moderated_test(first, second, spread, one_of_many=figure not in ORDERED, ratios=ratios, alpha=ALPHA)
            difference = replace(difference, low=test.low, high=test.high, raw=test.p)
            if column == "worst":
                counts = {"worst": min(len(first), len(second)), "worst at five seeds": RECOMMENDED_SEEDS}
                detected = {name: difference_detectable(spread, seeds) for name, seeds in counts.items()}
        found.append(difference)
    return found, detected


def _by_images(
    path: Path, sides: Sequence[pd.DataFrame], attack: str, checkpoint: str
) -> tuple[list[Difference], dict[str, float]]:
    """Return the differences on images: McNemar's test over all images and per class, and the test of the worst
    classes.
    """
    (names, labels, one), (_, others, two) = (_hits(path, side.iloc[0], attack, checkpoint) for side in sides)
    if not np.array_equal(labels, others):
        raise CorruptFile(f"{path}: the two runs have verdicts on different images")
    counts, first, second, both = (
        np.bincount(labels[kept], minlength=len(names)) for kept in (labels >= 0, one, two, one & two)
    )
    low, high = worst_difference_interval(first, second, counts)
    worst = [float(np.min(right[counts > 0] / counts[counts > 0])) for right in (first, second)]
    found = [Difference("worst", worst[0], worst[1], low, high, worst_difference_test(first, second, both, counts))]
    groups = [("average", first.sum(), second.sum(), both.sum(), len(labels))]
    groups += [(f"class {name}", *row) for name, *row in zip(names, first, second, both, counts, strict=True)]
    for name, *row in groups:
        a, b, shared, n = map(int, row)
        if n:
            low, high = paired_interval(a - shared, b - shared, n)
            found.append(Difference(name, a / n, b / n, low, high, mcnemar(a - shared, b - shared, mid_p=True)))
    smallest = int(counts[counts > 0].min())
    sizes = {"average": len(labels), "class": smallest}
    return found, {name: images_detectable(n) for name, n in sizes.items()}


def _adjusted(differences: Sequence[Difference], first: Sequence[str]) -> tuple[Difference, ...]:
    """Return the figures with adjusted p: those named `first` in order, then the others by Holm; untested ones keep
    nan.
    """
    tested = [one for one in differences if not math.isnan(one.raw)]
    gates = [one.raw for one in tested if one.figure in first]
    ordered, family = gatekeep(gates, [one.raw for one in tested if one.figure not in first])
    values = iter([*ordered.tolist(), *family.tolist()])
    return tuple(one if math.isnan(one.raw) else replace(one, p=next(values)) for one in differences)


def _hits(
    path: Path, row: pd.Series[Any], attack: str, checkpoint: str
) -> tuple[list[str], NDArray[np.int64], BoolArray]:
    """Return a run's class names, its labels, and which images it classifies correctly, from its verdicts."""
    folder = _folder(path, row)
    record = folder.read()
    if not record or not folder.verdicts.exists():
        raise Missing(f"{folder.path}: two checkpoints are compared on their verdicts, and there are none")
    if checksum(folder.verdicts) != record["files"].get(folder.verdicts.name):
        raise CorruptFile(f"{folder.verdicts}: content does not match the checksum in run.json")
    verdicts = folder.read_verdicts()
    if record["weights"][checkpoint] != row["weights_hash"]:
        raise CorruptFile(f"{folder.run}: not the weights of the board; `fairbench leaderboard build {row['suite']}`")
    protocol = next(found for found in record["protocols"].values() if found["hash"] == row["protocol"])
    labels = verdicts["labels"]
    asked = {text: verdicts[f"{checkpoint}/{text}"] for text in protocol[checkpoint]}
    predicted = metrics.union(labels, asked) if attack == UNION else asked[attack]
    labels, predicted = metrics.inside(labels, predicted)
    return list(record["class_names"]), labels, predicted == labels


def _folder(path: Path, row: pd.Series[Any]) -> RunFolder:
    parts = [str(row["suite"]), str(row["method"]).removesuffix("@yours"), str(row["run_id"])]
    if any(Path(part).name != part for part in parts):
        raise CorruptFile(f"{path}: {'/'.join(parts)} names no run folder")
    home = Path(row["home"]) if "home" in row else path
    return RunFolder((home.resolve().parent.parent.parent / "results").joinpath(*parts))
