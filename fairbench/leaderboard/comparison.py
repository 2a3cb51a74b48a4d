"""Where one method wins and where it loses against another, class by class, and which of it is more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t

from fairbench.errors import CorruptFile, InvalidInput, Missing, UnknownName
from fairbench.evaluation.verdicts import UNION
from fairbench.files import checksum
from fairbench.leaderboard.board import load_leaderboard
from fairbench.leaderboard.ranking import AGGREGATES, ALPHA, relative_score, seeds_of
from fairbench.results.folder import RunFolder
from fairbench.statistics import metrics
from fairbench.statistics.significance import MIN_SEEDS, holm, mcnemar, paired_interval, seed_test

__all__ = ["Comparison", "Difference", "compare"]

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Difference:
    """A figure of both sides, fractions; `low` to `high` is the 95 % interval of a - b, not corrected for the others.

    `p` is the two-sided p-value after Holm's correction over the comparison, nan where there is no test.
    """

    figure: str
    a: float
    b: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan

    @property
    def difference(self) -> float:
        """a - b."""
        return self.a - self.b

    @property
    def winner(self) -> Literal["A", "B", ""]:
        """Who is significantly better at 5 %."""
        if not self.p <= ALPHA:
            return ""
        return "A" if self.a > self.b else "B"


@dataclass(frozen=True)
class Comparison:
    """Two sides under one attack at one checkpoint; `unit` says what a claim is about and what the tests count."""

    a: str
    b: str
    unit: Literal["images", "seeds", "none"]
    seeds: tuple[str, ...]
    attack: str
    checkpoint: str
    differences: tuple[Difference, ...]
    relative: float

    @property
    def verdict(self) -> str:
        """What may be said of the two, in one sentence."""
        if self.unit == "none":
            return (
                f"{len(self.seeds)} seeds in common: no method can be said to beat another below {MIN_SEEDS}; "
                "--seed compares two checkpoints"
            )
        wins = {side: [one.figure for one in self.differences if one.winner == side] for side in ("A", "B")}
        said = [
            f"{name} is better on {', '.join(wins[side])}"
            for side, name in (("A", self.a), ("B", self.b))
            if wins[side]
        ]
        found = "; ".join(said) or "no difference is significant"
        if self.unit == "seeds":
            return f"{found} (paired t-tests over {len(self.seeds)} seeds, Holm over {self._tests} tests)"
        return (
            f"{found} (McNemar's exact test on the same images, Holm over {self._tests} tests); "
            "this is about two checkpoints, not about the methods, whose unit is the seed"
        )

    @property
    def _tests(self) -> int:
        return sum(not math.isnan(one.p) for one in self.differences)


def compare(
    path: Path, a: str, b: str, *, attack: str = UNION, checkpoint: str = "best", seed: str | None = None
) -> Comparison:
    """Compare two rows of a board, each a method's name or a run id.

    Two run ids, a `seed`, or a single seed in common compare two checkpoints image by image, from the verdicts in the
    results beside the leaderboards; otherwise the seed is the unit, paired, and below three in common nothing is
    tested. Raises UnknownName for a method or an attack that the board lacks, InvalidInput for sides without a common
    seed, Missing where verdicts are needed and are not there.
    """
    board = load_leaderboard(path)
    rows = board[(board["attack"] == attack) & (board["checkpoint"] == checkpoint)]
    if rows.empty:
        raise UnknownName("attack of this checkpoint", attack, board[board["checkpoint"] == checkpoint]["attack"])
    runs = rows[~rows["seed"].isin(AGGREGATES)]
    sides = [_side(runs, name) for name in (a, b)]
    seeds = sorted(set(sides[0]["seed"]) & set(sides[1]["seed"]), key=int)
    by_run = any(name in set(runs["run_id"]) for name in (a, b))
    if seed is not None:
        seeds = [one for one in seeds if one == seed]
    chosen = [side if by_run and len(side) == 1 else side[side["seed"].isin(seeds)] for side in sides]
    if any(side.empty for side in chosen):
        raise InvalidInput(f"{a} and {b} have no seed in common{f' that is {seed}' if seed else ''}: name two run ids")
    if all(len(side) == 1 for side in chosen):
        differences, unit = _by_images(path, chosen, attack, checkpoint), "images"
    else:
        differences, unit = _by_seeds(path, chosen), "seeds" if len(seeds) >= MIN_SEEDS else "none"
    means = pd.DataFrame([{"method": side, **_headline(rows)} for side, rows in zip("ba", chosen[::-1], strict=True)])
    return Comparison(
        a=a,
        b=b,
        unit=unit,  # type: ignore[arg-type]
        seeds=tuple(dict.fromkeys(str(value) for side in chosen for value in side["seed"])),
        attack=attack,
        checkpoint=checkpoint,
        differences=_corrected(differences),
        relative=float(relative_score(means, "b").iloc[1]),
    )


def _side(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of a method or of one run."""
    for column in ("method", "run_id"):
        found = runs[runs[column] == name]
        if len(found):
            return found
    raise UnknownName("method or run of this board", name, [*runs["method"], *runs["run_id"]])


def _headline(rows: pd.DataFrame) -> dict[str, float]:
    return {name: float(rows[name].mean()) for name in ("average", "worst")}


def _by_seeds(path: Path, sides: Sequence[pd.DataFrame]) -> list[Difference]:
    """Means over common seeds with the t interval of their paired difference; tested from three seeds on."""
    sides = [_with_classes(path, side) for side in sides]
    classes = [name for name in sides[0].columns if name.startswith("class_")]
    record = _folder(path, sides[0].iloc[0]).read()
    names = record["class_names"] if record else range(len(classes))
    found = []
    for name in ("worst", "average", *classes):
        first, second = (seeds_of(side, name) for side in sides)
        seeds = sorted(first.keys() & second.keys())
        if not seeds:
            continue  # a class without images
        figure = f"class {names[int(name[6:])]}" if name in classes else name
        one, other = (np.array([side[seed] for seed in seeds]) for side in (first, second))
        difference = Difference(figure, float(one.mean()), float(other.mean()))
        if len(seeds) >= MIN_SEEDS:
            drops = one - other
            reach = float(t.isf(0.025, len(seeds) - 1) * drops.std(ddof=1) / math.sqrt(len(seeds)))
            low, high = difference.difference - reach, difference.difference + reach
            difference = replace(difference, low=low, high=high, p=seed_test(one, other))
        found.append(difference)
    return found


def _by_images(path: Path, sides: Sequence[pd.DataFrame], attack: str, checkpoint: str) -> list[Difference]:
    """Over all images and within each class, McNemar on the images that only one side withstands.

    The worst classes of two checkpoints may be different ones and hold different images: they are shown, not tested.
    """
    (names, labels, one), (_, others, two) = (_hits(path, side.iloc[0], attack, checkpoint) for side in sides)
    if not np.array_equal(labels, others):
        raise CorruptFile(f"{path}: the two runs have verdicts on different images")
    worst = [float(side.iloc[0]["worst"]) for side in sides]
    found = [Difference("worst", worst[0], worst[1])]
    groups = {"average": np.ones(len(labels), dtype=np.bool_)}
    groups |= {f"class {name}": labels == number for number, name in enumerate(names)}
    for name, inside in groups.items():
        n = int(inside.sum())
        if n:
            lost, won = int(np.sum(one & ~two & inside)), int(np.sum(two & ~one & inside))
            low, high = paired_interval(lost, won, n)
            found.append(Difference(name, one[inside].mean(), two[inside].mean(), low, high, mcnemar(lost, won)))
    return found


def _corrected(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    tested = [one for one in differences if not math.isnan(one.p)]
    adjusted = iter(holm([one.p for one in tested]).tolist())
    return tuple(one if math.isnan(one.p) else replace(one, p=next(adjusted)) for one in differences)


def _hits(
    path: Path, row: pd.Series[Any], attack: str, checkpoint: str
) -> tuple[list[str], NDArray[np.int64], BoolArray]:
    """Class names, labels and whether the run withstands, from its verdicts in `results` beside the `leaderboards`."""
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
    return list(record["class_names"]), labels, predicted == labels


def _folder(path: Path, row: pd.Series[Any]) -> RunFolder:
    parts = [str(row[name]) for name in ("suite", "method", "run_id")]
    if any(Path(part).name != part for part in parts):
        raise CorruptFile(f"{path}: {'/'.join(parts)} names no run folder")
    return RunFolder((path.resolve().parent.parent.parent / "results").joinpath(*parts))


def _with_classes(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with their class accuracies, from the sibling file of a board with many classes."""
    sibling = path.with_name(f"{path.stem}.classes.csv")
    if "class_0" in rows.columns or not sibling.exists():
        return rows
    classes = pd.read_csv(sibling, dtype={"seed": str, "run_id": str, "protocol": str})
    return rows.merge(classes, on=["protocol", "method", "seed", "checkpoint", "attack", "run_id"], how="left")
