"""results/ -> leaderboards/<suite>/v<N>.csv: a pure, sorted function of the run folders, and the way back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairbench.errors import CorruptFile, InvalidInput, Missing
from fairbench.evaluation.verdicts import UNION
from fairbench.files import checksum
from fairbench.leaderboard.board import load_leaderboard, write_leaderboards
from fairbench.leaderboard.schema import COLUMNS, COSTS, ENDS, FIGURES, OPTIONAL, SCHEMA
from fairbench.leaderboard.sharing import build_alone
from fairbench.results.folder import RunFolder, each_run
from fairbench.statistics import metrics
from fairbench.suites.spec import DataConfig, Environment, RunSpec, digest

__all__ = ["COLUMNS", "SCHEMA", "board_name", "build", "load_leaderboard", "rows_of"]

KINDS = ("best", "last")
CLASSES_INLINE = 20


@dataclass(frozen=True, slots=True)
class _Run:
    """A finished run on its way to a board: what decides its place, and its record as text.

    A record as Python objects takes five times the memory, which counts where there are thousands of runs.
    """

    folder: RunFolder
    version: str
    method: str
    seed: int
    created: str
    run_id: str
    settings: str
    attacks: tuple[tuple[str, ...], ...]
    classes: int
    marked: bool
    text: str

    def rows(self) -> Iterator[dict[str, Any]]:
        return rows_of(self.folder, json.loads(self.text), self.version)


def build(results: Path, leaderboards: Path, suite: str) -> list[Path]:
    """Rebuild every board of a suite from its run folders and return the files; the same results give the same bytes.

    Raises Missing when there is no complete run, InvalidInput when one version has runs of two protocols.
    """
    if Path(suite).name != suite or suite in {"", ".."} or not (results / suite).is_dir():
        raise Missing(f"{results / suite}: no run of such a suite; `fairbench run SUITE` makes some")
    return build_alone(leaderboards / suite, lambda: _build(results, leaderboards / suite, suite))


def _build(results: Path, folder: Path, suite: str) -> list[Path]:
    boards: dict[str, list[_Run]] = {}
    protocols: dict[str, str] = {}
    for run, record in each_run(results, suite):
        text, settings = json.dumps(record), _settings(RunSpec.model_validate(record["spec"]))
        for version, protocol in record["protocols"].items():
            name = board_name(version, protocol)
            if protocols.setdefault(name, protocol["hash"]) != protocol["hash"]:
                raise InvalidInput(
                    f"{run.run}: protocol {protocol['hash']} differs from {protocols[name]}, that of the other "
                    f"runs of {suite} {name}: a changed protocol needs a new suite version"
                )
            boards.setdefault(name, []).append(
                _Run(
                    folder=run,
                    version=version,
                    method=record["method"],
                    seed=record["seed"],
                    created=record["provenance"]["created"],
                    run_id=record["run_id"],
                    settings=settings,
                    attacks=tuple(tuple(protocol[kind]) for kind in KINDS),
                    classes=len(record["class_names"]),
                    marked="tuning" in protocol,
                    text=text,
                )
            )
    if not boards:
        raise Missing(f"{results / suite}: no complete run; `fairbench run {suite}` makes some")
    return [path for name, runs in sorted(boards.items()) for path in _write(folder / name, _newest(runs))]


def board_name(version: str, protocol: Mapping[str, Any]) -> str:
    """File stem of the board a run belongs to: `v1`, or one apart for overridden settings, which are never ranked."""
    return f"v{version}.custom-{protocol['hash']}" if protocol["custom"] else f"v{version}"


def rows_of(folder: RunFolder, record: Mapping[str, Any], version: str) -> Iterator[dict[str, Any]]:
    """Leaderboard rows of one run: one per checkpoint kind and attack of a protocol, then their union."""
    verdicts = _vouched(folder, record)
    if "labels" not in verdicts:
        raise CorruptFile(f"{folder.verdicts}: holds no verdicts; `fairbench run` evaluates the run again")
    labels, protocol = verdicts["labels"], record["protocols"][version]
    names, cost = record["class_names"], _training_cost(folder, record)
    spec = RunSpec.model_validate(record["spec"])
    described = _description(spec, record, version, cost) | _budget(folder, protocol)
    asked: dict[str, dict[str, NDArray[np.int64]]] = {}
    for kind in KINDS:
        missing = [text for text in protocol[kind] if f"{kind}/{text}" not in verdicts]
        if missing:
            raise CorruptFile(f"{folder.verdicts}: no verdicts for {kind}/{missing[0]}")
        asked[kind] = {text: verdicts[f"{kind}/{text}"] for text in protocol[kind]}
        if asked[kind]:
            asked[kind][UNION] = metrics.union(labels, asked[kind])
    every = {f"{kind}/{attack}": predicted for kind in KINDS for attack, predicted in asked[kind].items()}
    figures = _figures(labels, every, names, _schema(protocol))
    for kind in KINDS:
        for attack in asked[kind]:
            costs = [record["evaluations"][f"{kind}/{text}"] for text in protocol[kind] if attack in (text, UNION)]
            yield {
                **described,
                "checkpoint": kind,
                "selection": spec.selection.rule if kind == "best" else "last",
                "flags": _flags(record, kind),
                "weights_hash": record["weights"][kind],
                "attack": attack,
                **figures[f"{kind}/{attack}"],
                "eval_seconds": round(sum(cost["seconds"] for cost in costs), 2),
            }


def _vouched(folder: RunFolder, record: Mapping[str, Any]) -> dict[str, NDArray[np.int64]]:
    """The verdicts, if they are those that `run.json` has the checksum of; weights have no part in a board."""
    expected = record["files"].get(folder.verdicts.name)
    if expected and folder.verdicts.exists() and checksum(folder.verdicts) != expected:
        raise CorruptFile(f"{folder.verdicts}: content does not match the checksum in run.json")
    return folder.read_verdicts()


def _newest(runs: Sequence[_Run]) -> list[_Run]:
    """The runs that a board shows: of each method those with its newest run's settings, and of each seed the newest.

    A torch upgrade or other settings make new runs beside the old ones, and a mean over seeds must not mix settings.
    """
    settings: dict[str, str] = {}
    shown: dict[tuple[str, int], _Run] = {}
    for run in sorted(runs, key=lambda run: (run.created, run.run_id), reverse=True):
        if settings.setdefault(run.method, run.settings) == run.settings:
            shown.setdefault((run.method, run.seed), run)
    return list(shown.values())


def _settings(spec: RunSpec) -> str:
    """What a run is but for its seed, its environment and the runs it was built on."""
    apart = {
        "seed": 0,
        "environment": Environment(torch=""),
        "teacher": None,
        "natural_teacher": None,
        "warm_start": None,
    }
    return spec.model_copy(update=apart).run_id


def _training_cost(folder: RunFolder, record: Mapping[str, Any]) -> dict[str, float]:
    """What the training took, and before it that of the run whose weights it starts from; raises Missing without it."""
    own, warm = record["cost"], record["spec"].get("warm_start")
    if not isinstance(warm, Mapping):
        return dict(own)
    start = RunFolder(folder.path.parents[2] / RunSpec.model_validate(warm).folder)
    before = start.read().get("cost")
    if before is None:
        raise Missing(f"{start.run}: the warm start of {folder.path} is not there")
    spent = {name: own[name] + before[name] for name in ("train_seconds", "forwards", "backwards", "flops")}
    return {**own, **spent, "peak_memory_mb": max(own["peak_memory_mb"], before["peak_memory_mb"])}


def _description(spec: RunSpec, record: Mapping[str, Any], version: str, cost: Mapping[str, float]) -> dict[str, Any]:
    """What all rows of a run have in common."""
    origin = record["provenance"]
    images = cost["forwards"] / cost["train_seconds"] if cost["train_seconds"] else math.nan
    teacher = spec.teacher.run_id if isinstance(spec.teacher, RunSpec) else (spec.teacher or "")
    return {
        "schema": _schema(record["protocols"][version]),
        "suite": spec.suite,
        "protocol": record["protocols"][version]["hash"],
        "method": spec.label,
        "base": spec.method.base,
        "policies": "+".join(spec.method.policies),
        "provenance": spec.method.provenance,
        "dataset": spec.data.label,
        "architecture": spec.model,
        "teacher": teacher,
        "seed": str(spec.seed),
        "seeds": 1,
        "quick": spec.quick,
        "train_seconds": round(cost["train_seconds"], 2),
        "images_per_second": round(images, 1),
        "forwards": cost["forwards"],
        "backwards": cost["backwards"],
        "flops": cost["flops"],
        "peak_memory_mb": round(cost["peak_memory_mb"], 1),
        "device": spec.environment.device,
        "precision": spec.recipe.precision,
        "threads": spec.environment.threads,
        "recipe_hash": spec.recipe_hash,
        "data_hash": spec.data_hash,
        "commit": origin["commit"],
        "dirty": origin["dirty"],
        "command": spec.command,
        "created": origin["created"],
        "run_id": record["run_id"],
        "packages": ";".join(f"{name}={version}" for name, version in origin.get("packages", {}).items()),
        "split_hash": digest({"data": spec.data_hash, **_split(spec.data)}),
        "config_hash": _settings(spec),
    }


def _schema(protocol: Mapping[str, Any]) -> int:
    """The schema of a board: that of its protocol, so that boards of older suite versions are built as they were."""
    return SCHEMA if protocol.get("metrics") == 2 else 2


def _split(data: DataConfig) -> dict[str, Any]:
    """How the data are split; a setting that came later is left out while it is not used."""
    found = data.model_dump(mode="json", exclude={"name"})
    return {name: value for name, value in found.items() if value is not None or name == "test_per_class"}


def _budget(folder: RunFolder, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What the optional columns say of a run: its budget, how its settings were found, and how well it trained."""
    if "tuning" not in protocol:
        return {}
    rows = folder.read_history()
    robust = rows[-1].get("train_correct_adv", "") if rows else ""
    share = float(robust) if robust else math.nan
    return {"budget_hash": protocol["budget"], "tuning": protocol["tuning"], "train_robust": share}


def _flags(record: Mapping[str, Any], kind: str) -> str:
    """Names of the red sanity checks of a checkpoint, `none` if there were checks, empty if there were not."""
    checked = record.get("flags", {}).get(kind)
    red = [name for name, flag in (checked or {}).items() if flag["red"]]
    return ";".join(red) or ("none" if checked else "")


def _figures(
    labels: NDArray[np.int64], predicted: Mapping[str, NDArray[np.int64]], names: Sequence[str], version: int
) -> dict[str, dict[str, Any]]:
    found = {}
    for attack, summary in metrics.summarise_all(labels, predicted, len(names), corrected_below=version < 3).items():
        values: dict[str, Any] = {"n": summary.n, "worst_class": names[summary.worst_class]}
        values |= {name: getattr(summary, name) for name in FIGURES}
        values |= {f"class_{index}": value for index, value in enumerate(summary.per_class.tolist())}
        values |= {f"n_class_{index}": value for index, value in enumerate(summary.class_n.tolist())}
        found[attack] = values
    return found


def _write(stem: Path, runs: Sequence[_Run]) -> list[Path]:
    classes = max(run.classes for run in runs)
    per_class = [f"class_{index}" for index in range(classes)] + [f"n_class_{index}" for index in range(classes)]
    inline = per_class if classes <= CLASSES_INLINE else []
    columns = [name for column in COLUMNS for name in (inline if column == "classes" else [column])]
    columns += OPTIONAL if any(run.marked for run in runs) else ()
    files = {stem.parent / f"{stem.name}.csv": columns}
    if not inline:
        keys = ["protocol", "method", "seed", "checkpoint", "attack", "run_id"]
        files[stem.parent / f"{stem.name}.classes.csv"] = keys + per_class
    write_leaderboards(files, _rows(runs))
    return list(files)


def _rows(runs: Sequence[_Run]) -> Iterator[dict[str, Any]]:
    """All rows of a board in its order: by method, seed, checkpoint and attack, each method's aggregates last.

    Rows are made one run at a time and handed on, so that a board of any length takes little memory.
    """
    asked = dict.fromkeys(attack for run in runs for kind in run.attacks if kind for attack in (*kind, UNION))
    order = {attack: position for position, attack in enumerate(asked)}
    for _, group in groupby(sorted(runs, key=lambda run: (run.method, run.seed, run.run_id)), lambda run: run.method):
        over_seeds: dict[tuple[Any, ...], _OverSeeds] = {}
        for run in group:
            for row in sorted(run.rows(), key=lambda row: (row["checkpoint"], order[row["attack"]])):
                key = tuple(row[name] for name in ("checkpoint", "attack", "recipe_hash", "architecture"))
                if key not in over_seeds:
                    over_seeds[key] = _OverSeeds(row)
                over_seeds[key].add(row)
                yield row
        aggregates = [row for group in over_seeds.values() for row in group.rows()]
        yield from sorted(aggregates, key=lambda row: (row["seed"], row["checkpoint"], order[row["attack"]]))


class _OverSeeds:
    """The rows of one method, checkpoint and attack, on the way to their mean and sample standard deviation."""

    def __init__(self, first: Mapping[str, Any]) -> None:
        self._schema = int(first["schema"])
        self._shared = dict(first)
        measured = [name for name in ("train_robust",) if name in first]
        self._names = [*FIGURES, *COSTS, *measured, *(key for key in first if key.startswith("class_"))]
        self._table: list[NDArray[np.float64]] = []
        self._flags: list[str] = []

    def add(self, row: Mapping[str, Any]) -> None:
        self._shared = {key: value for key, value in self._shared.items() if row[key] == value}
        self._table.append(np.array([row[name] for name in self._names], dtype=np.float64))
        self._flags.append(row["flags"])

    def rows(self) -> Iterator[dict[str, Any]]:
        table, seeds = np.stack(self._table), len(self._table)
        spread = table.std(axis=0, ddof=1) if seeds > 1 else np.full(len(self._names), math.nan)
        for seed, values in (("mean", table.mean(axis=0)), ("std", spread)):
            figures = dict(zip(self._names, values.tolist(), strict=True))
            if self._schema >= 3:  # the mean of interval ends is the end of no interval
                figures |= dict.fromkeys(ENDS, math.nan)
            own = {"seed": seed, "seeds": seeds, "run_id": "", "worst_class": "", "flags": _all_flags(self._flags)}
            yield {**self._shared, **figures, **own}


def _all_flags(rows: Sequence[str]) -> str:
    """The checks that are red in any row; `none` only if every row was checked."""
    red = dict.fromkeys(name for flags in rows for name in flags.split(";") if name not in ("", "none"))
    return ";".join(red) or ("none" if all(rows) else "")
