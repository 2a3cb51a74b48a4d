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

from fairbench.errors import CorruptFile, Missing
from fairbench.evaluation.verdicts import UNION
from fairbench.files import checksum
from fairbench.leaderboard.classes import class_columns
from fairbench.leaderboard.detection import ALPHA, RECOMMENDED_SEEDS, class_ratios, images_detectable, spread_of
from fairbench.results.folder import RunFolder
from fairbench.statistics import metrics
from fairbench.statistics.moderated import difference_detectable, moderated_test
from fairbench.statistics.significance import MIN_SEEDS, mcnemar, paired_interval
from fairbench.statistics.worst_difference import worst_difference_interval, worst_difference_test

__all__ = ["ORDERED", "BoolArray", "Difference", "by_images", "by_seeds"]

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
    """Means over seeds with the interval of their difference, tested from three seeds on; what the test can detect."""
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
