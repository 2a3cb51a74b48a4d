"""One checkpoint under one attack in the form that the gate compares, from an evaluation or from a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairbench.errors import CorruptFile, Missing, UnknownName
from fairbench.evaluation.report import Report
from fairbench.evaluation.verdicts import UNION
from fairbench.files import read_json
from fairbench.leaderboard.rows import training_cost
from fairbench.results.folder import RunFolder
from fairbench.statistics import metrics

__all__ = ["COSTS", "KIND", "Entry", "from_report", "from_run", "from_saved", "hardware_name"]

IntArray = NDArray[np.int64]

KIND = "best"
COSTS = ("train_seconds", "flops")


@dataclass(frozen=True, eq=False)
class Entry:
    """One checkpoint under one attack: its right images by class, and its verdict on every image if known.

    `correct` and `counts` are int64 [C]; `labels` int64 [N] and `hits` bool [N] or None. `flags` are the red flags,
    None if flags were not checked. `data` is the hash of a run's dataset, `images_hash` that of an evaluation's images.
    `custom` marks results of changed settings (`--set`). `alone` marks a single checkpoint, which is compared with the
    single one of the other side, whatever its name. `costs_lack` says why costs are unknown. Unknown values are empty
    or None.
    """

    correct: IntArray
    counts: IntArray
    attacks: tuple[str, ...]
    method: str = ""
    seed: str = ""
    suite: str = ""
    protocol: str = ""
    version: int = 0
    custom: bool = False
    threat: tuple[str, float] | None = None
    data: str = ""
    images_hash: str = ""
    class_names: tuple[str, ...] = ()
    labels: IntArray | None = None
    hits: NDArray[np.bool_] | None = None
    flags: frozenset[str] | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    costs_lack: str = ""
    hardware: str = ""
    alone: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """The method and the seed."""
        return self.method, self.seed

    @property
    def name(self) -> str:
        """Name for messages: `absld seed 0`, or `model` for an evaluation without a method."""
        return f"{self.method} seed {self.seed}" if self.method else "model"


def from_report(report: Report, attack: str = UNION) -> Entry:
    """Return the entry of an evaluation; raises UnknownName."""
    labels, verdicts = report.verdicts.labels, report.verdicts
    return _alone(labels, verdicts, report.class_names, report.threat, report.flags, report.data, attack)


def from_saved(path: Path, attack: str) -> Entry:
    """Return the entry of a folder that `fairbench evaluate --out` wrote; raises CorruptFile and UnknownName."""
    found, verdicts = read_json(path / "report.json"), RunFolder(path).read_verdicts()
    try:
        asked = {text: verdicts[text] for text in found["attacks"] if text != UNION}
        threat = found.get("threat") and (str(found["threat"]["norm"]), float(found["threat"]["eps"]))
        labels, names, flags = verdicts["labels"], found["class_names"], found.get("flags")
        return _alone(labels, asked, names, threat, flags, str(found.get("data_hash", "")), attack)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise CorruptFile(
            f"{path}: report.json and verdicts.npz are not those of `fairbench evaluate --out` ({what})"
        ) from None


def from_run(folder: RunFolder, record: Mapping[str, Any], version: str, attack: str) -> Entry:
    """Return the entry of a run's best checkpoint under a suite version; raises CorruptFile and UnknownName."""
    spec, protocol = record["spec"], record["protocols"][version]
    lacking = ""
    try:
        cost = training_cost(folder, record)  # with the warm start, as on a board
    except (Missing, CorruptFile) as error:
        cost, lacking = {}, str(error)
    stored = folder.read_verdicts()
    texts = tuple(protocol[KIND])
    absent = [text for text in texts if f"{KIND}/{text}" not in stored]
    if absent or "labels" not in stored:
        raise CorruptFile(f"{folder.verdicts}: no verdicts for {KIND}/{absent[0] if absent else '*'}")
    verdicts = {text: stored[f"{KIND}/{text}"] for text in texts}
    environment = spec["environment"]
    return Entry(
        **_scores(
            stored["labels"],
            _under(attack, stored["labels"], verdicts, str(folder.path)),
            record["class_names"],
        ),
        attacks=texts,
        method=record["method"],
        seed=str(record["seed"]),
        suite=record["suite"],
        protocol=protocol["hash"],
        version=int(version.partition(".")[0]),
        custom=bool(protocol["custom"]),
        threat=(spec["threat"]["norm"], float(spec["threat"]["eps"])),
        data=spec["data_hash"],
        flags=_red(record.get("flags", {}).get(KIND)),
        costs={name: float(cost[name]) for name in COSTS if cost.get(name) is not None},
        costs_lack=lacking,
        hardware=hardware_name(environment["device"], spec["recipe"]["precision"], environment["threads"]),
    )


def hardware_name(device: Any, precision: Any, threads: Any) -> str:
    """Return the hardware and precision that a cost depends on, in words; costs of other hardware are not compared."""
    return ", ".join(str(part) for part in (device, precision, threads))


def _alone(
    labels: IntArray,
    verdicts: Mapping[str, IntArray],
    class_names: Sequence[str],
    threat: tuple[str, float] | None,
    flags: Any,
    images_hash: str,
    attack: str,
) -> Entry:
    predicted = _under(attack, labels, verdicts, "report")
    scores = _scores(labels, predicted, class_names)
    known: dict[str, Any] = {"threat": threat, "flags": _red(flags), "images_hash": images_hash, "alone": True}
    return Entry(**scores, attacks=tuple(verdicts), **known)


def _under(attack: str, labels: IntArray, verdicts: Mapping[str, IntArray], where: str) -> IntArray:
    if attack == UNION:
        return metrics.union(labels, verdicts)
    if attack not in verdicts:
        raise UnknownName(f"attack of {where}", attack, [*verdicts, UNION])
    return np.asarray(verdicts[attack], dtype=np.int64)


def _scores(labels: IntArray, predicted: IntArray, class_names: Sequence[str]) -> dict[str, Any]:
    labels, predicted = metrics.inside(labels, predicted)
    return {
        "correct": metrics.class_correct(labels, predicted, len(class_names)),
        "counts": metrics.images_per_class(labels, len(class_names)),
        "class_names": tuple(map(str, class_names)),
        "labels": labels,
        "hits": labels == predicted,
    }


def _red(flags: Any) -> frozenset[str] | None:
    """Return the red flags of a run or a report, `{name: {"red": bool, ...}}`; None if no flags were checked."""
    if not flags:
        return None
    return frozenset(
        str(name) for name, found in flags.items() if (found["red"] if isinstance(found, Mapping) else found.red)
    )
