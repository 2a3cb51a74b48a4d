"""The differences between two sides of a comparison: over seeds, or image by image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairbench.errors import CorruptFile, InvalidInput, Missing
from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard.classes import class_columns
from fairbench.leaderboard.detectable import ALPHA, images_detectable, seeds_detectable
from fairbench.leaderboard.lineage import run_folder
from fairbench.leaderboard.seed_spread import class_ratios, spread_of
from fairbench.results.folder import RunFolder
from fairbench.statistics import metrics
from fairbench.statistics.moderated import Spread, moderated_test
from fairbench.statistics.significance import MIN_SEEDS, holm, mcnemar, paired_interval
from fairbench.statistics.worst_difference import worst_difference_interval, worst_difference_test

__all__ = ["ORDERED", "BoolArray", "Difference", "by_images", "by_seeds", "pairs_by_seeds"]

BoolArray = NDArray[np.bool_]
ORDERED = ("worst", "average")


@dataclass(frozen=True)
class Difference:
    """A figure of both sides, fractions; `low` to `high` is the uncorrected 95 % interval of a - b.

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


def by_seeds(
    path: Path, runs: pd.DataFrame, sides: Sequence[pd.DataFrame]
) -> tuple[list[Difference], dict[str, float]]:
    """Return means over seeds, with tests from three seeds on, and the differences that the tests detect."""
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
        spread, seeds = spread_of(runs, column), min(len(first), len(second))
        found.append(_of_means(figure, first, second, spread, ratios, one_of_many=figure not in ORDERED))
        if column == "worst" and seeds >= MIN_SEEDS:
            detected = seeds_detectable(spread, seeds)
    return found, detected


def pairs_by_seeds(
    runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], figures: Sequence[str]
) -> dict[tuple[str, str, str, str], Difference]:
    """Compare pairs of a board's methods over seeds, with Holm's correction over everything that is tested.

    `runs` are rows of single seeds on one checkpoint, with unrounded figures. Keys are (method, base, figure, attack)
    for every attack of the rows and every pair that both have runs. A difference is tested where both methods have
    three seeds with a finite figure (a network that withstands nothing has no NSD). Raises InvalidInput for a figure
    that is not a column.
    """
    unknown = [figure for figure in figures if figure not in runs]
    if unknown:
        raise InvalidInput(f"the board has no figure {unknown[0]!r}")
    found = {}
    for attack, under in runs.groupby("attack", sort=False):
        ratios = class_ratios(under)
        for figure in figures:
            spread = spread_of(under, figure)
            for pair in pairs:
                first, second = (under.loc[under["method"] == name, figure].to_numpy(np.float64) for name in pair)
                if len(first) and len(second):
                    scale = (ratios[pair[0]], ratios[pair[1]])
                    found[(*pair, figure, str(attack))] = _of_means(
                        figure, first, second, spread, scale, one_of_many=True
                    )
    tested = [key for key, one in found.items() if not math.isnan(one.raw)]
    adjusted = holm([found[key].raw for key in tested]) if tested else ()
    return found | {key: replace(found[key], p=float(p)) for key, p in zip(tested, adjusted, strict=True)}


def _of_means(
    figure: str,
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    spread: Spread,
    ratios: tuple[float, float],
    *,
    one_of_many: bool,
) -> Difference:
    """Return the difference of the means over seeds, tested where both sides have enough finite figures."""
    found = Difference(figure, float(first.mean()), float(second.mean()))
    if min(len(first), len(second)) < MIN_SEEDS or not np.isfinite([found.a, found.b]).all():
        return found
    test = moderated_test(first, second, spread, one_of_many=one_of_many, ratios=ratios, alpha=ALPHA)
    return replace(found, low=test.low, high=test.high, raw=test.p)


def by_images(
    path: Path, sides: Sequence[pd.DataFrame], attack: str, checkpoint: str
) -> tuple[list[Difference], dict[str, float]]:
    """Return the differences on images, by McNemar's test and, for the worst classes, by a test of their own."""
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


def _hits(
    path: Path, row: pd.Series[Any], attack: str, checkpoint: str
) -> tuple[list[str], NDArray[np.int64], BoolArray]:
    """Return a run's class names, its labels, and which images it classifies correctly, from its verdicts."""
    folder = _folder(path, row)
    record = folder.read()
    if not record or not folder.verdicts.exists():
        raise Missing(f"{folder.path}: two checkpoints are compared on their verdicts, and there are none")
    verdicts = folder.vouched_verdicts(record)
    if record["weights"][checkpoint] != row["weights_hash"]:
        raise CorruptFile(f"{folder.run}: not the weights of the board; `fairbench leaderboard build {row['suite']}`")
    protocol = next(found for found in record["protocols"].values() if found["hash"] == row["protocol"])
    labels = verdicts["labels"]
    asked = {text: verdicts[f"{checkpoint}/{text}"] for text in protocol[checkpoint]}
    predicted = metrics.union(labels, asked) if attack == UNION else asked[attack]
    labels, predicted = metrics.inside(labels, predicted)
    return list(record["class_names"]), labels, predicted == labels


def _folder(path: Path, row: pd.Series[Any]) -> RunFolder:
    own = {**row, "method": str(row["method"]).removesuffix("@yours")}
    return run_folder(Path(own.get("home", path)), own)
