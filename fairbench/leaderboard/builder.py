"""results/ -> leaderboards/<suite>/v<N>.csv: a pure, sorted function of the run folders, and the way back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairbench import metrics
from fairbench.config import Environment, RunSpec, digest
from fairbench.errors import CorruptFile, InvalidInput, Missing
from fairbench.files import checksum
from fairbench.leaderboard.board import load_leaderboard, write_leaderboard
from fairbench.leaderboard.schema import COLUMNS, COSTS, FIGURES, SCHEMA
from fairbench.leaderboard.sharing import shared_build
from fairbench.results import RunFolder, find_runs

__all__ = ["COLUMNS", "SCHEMA", "board_name", "build", "load_leaderboard", "rows_of"]

Run = tuple[RunFolder, dict[str, Any], str]

CLASSES_INLINE = 20


def build(results: Path, leaderboards: Path, suite: str) -> list[Path]:
    """Rebuild every board of a suite from its run folders and return the files; the same results give the same bytes.

    Raises Missing when there is no complete run, InvalidInput when one version has runs of two protocols.
    """
    if Path(suite).name != suite or not (results / suite).is_dir():
        raise Missing(f"{results / suite}: no run of such a suite; `fairbench run SUITE` makes some")
    return shared_build(leaderboards / suite, results, lambda: _build(results, leaderboards / suite, suite))


def _build(results: Path, folder: Path, suite: str) -> list[Path]:
    boards: dict[str, list[Run]] = {}
    protocols: dict[str, str] = {}
    for run, record in find_runs(results, suite):
        for version, protocol in record["protocols"].items():
            name = board_name(version, protocol)
            if protocols.setdefault(name, protocol["hash"]) != protocol["hash"]:
                raise InvalidInput(
                    f"{run.run}: protocol {protocol['hash']} differs from {protocols[name]}, that of the other "
                    f"runs of {suite} {name}: a changed protocol needs a new suite version"
                )
            boards.setdefault(name, []).append((run, record, version))
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
    for kind in ("best", "last"):
        missing = [text for text in protocol[kind] if f"{kind}/{text}" not in verdicts]
        if missing:
            raise CorruptFile(f"{folder.verdicts}: no verdicts for {kind}/{missing[0]}")
        asked = {text: verdicts[f"{kind}/{text}"] for text in protocol[kind]}
        if asked:
            asked["union"] = metrics.union(labels, asked)
        identity = _identity(record, kind, version, cost)
        for attack, predicted in asked.items():
            costs = [record["evaluations"][f"{kind}/{text}"] for text in protocol[kind] if attack in (text, "union")]
            yield {
                **identity,
                "attack": attack,
                **_figures(labels, predicted, names),
                "eval_seconds": round(sum(cost["seconds"] for cost in costs), 2),
            }


def _vouched(folder: RunFolder, record: Mapping[str, Any]) -> dict[str, NDArray[np.int64]]:
    """The verdicts, if they are those that `run.json` has the checksum of; weights have no part in a board."""
    expected = record["files"].get(folder.verdicts.name)
    if expected and folder.verdicts.exists() and checksum(folder.verdicts) != expected:
        raise CorruptFile(f"{folder.verdicts}: content does not match the checksum in run.json")
    return folder.read_verdicts()


def _newest(runs: Sequence[Run]) -> list[Run]:
    """The runs that a board shows: of each method those with its newest run's settings, and of each seed the newest.

    A torch upgrade or other settings make new runs beside the old ones, and a mean over seeds must not mix settings.
    """
    settings: dict[str, str] = {}
    shown: dict[tuple[str, int], Run] = {}
    for run in sorted(runs, key=lambda run: (run[1]["provenance"]["created"], run[1]["run_id"]), reverse=True):
        label, own = run[1]["method"], _settings(run[1])
        if settings.setdefault(label, own) == own:
            shown.setdefault((label, run[1]["seed"]), run)
    return list(shown.values())


def _settings(record: Mapping[str, Any]) -> str:
    """What a run is but for its seed, its environment and the runs it was built on."""
    apart = {
        "seed": 0,
        "environment": Environment(torch=""),
        "teacher": None,
        "natural_teacher": None,
        "warm_start": None,
    }
    return RunSpec.model_validate(record["spec"]).model_copy(update=apart).run_id


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


def _identity(record: Mapping[str, Any], kind: str, version: str, cost: Mapping[str, float]) -> dict[str, Any]:
    spec = RunSpec.model_validate(record["spec"])
    origin = record["provenance"]
    images = cost["forwards"] / cost["train_seconds"] if cost["train_seconds"] else math.nan
    teacher = spec.teacher.run_id if isinstance(spec.teacher, RunSpec) else (spec.teacher or "")
    return {
        "schema": SCHEMA,
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
        "checkpoint": kind,
        "selection": spec.selection.rule if kind == "best" else "last",
        "flags": _flags(record, kind),
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
        "weights_hash": record["weights"][kind],
        "commit": origin["commit"],
        "dirty": origin["dirty"],
        "command": spec.command,
        "created": origin["created"],
        "run_id": spec.run_id,
        "packages": ";".join(f"{name}={version}" for name, version in origin.get("packages", {}).items()),
        "split_hash": digest({"data": spec.data_hash, **spec.data.model_dump(mode="json", exclude={"name"})}),
        "config_hash": _settings(record),
    }


def _flags(record: Mapping[str, Any], kind: str) -> str:
    """Names of the red sanity checks of a checkpoint, `none` if there were checks, empty if there were not."""
    checked = record.get("flags", {}).get(kind)
    red = [name for name, flag in (checked or {}).items() if flag["red"]]
    return ";".join(red) or ("none" if checked else "")


def _figures(labels: NDArray[np.int64], predicted: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    summary = metrics.summarise(labels, predicted, len(names))
    values: dict[str, Any] = {"n": summary.n, "worst_class": names[summary.worst_class]}
    values |= {name: getattr(summary, name) for name in FIGURES}
    values |= {f"class_{index}": value for index, value in enumerate(summary.per_class)}
    values |= {f"n_class_{index}": int(value) for index, value in enumerate(summary.class_n)}
    return values


def _write(stem: Path, runs: Sequence[Run]) -> list[Path]:
    rows = [row for folder, record, version in runs for row in rows_of(folder, record, version)]
    order = {attack: position for position, attack in enumerate(dict.fromkeys(row["attack"] for row in rows))}
    rows += _aggregate(rows)
    rows.sort(
        key=lambda row: (row["method"], _seed_key(row["seed"]), row["run_id"], row["checkpoint"], order[row["attack"]])
    )
    classes = max(len([key for key in row if key.startswith("n_class_")]) for row in rows)
    per_class = [f"class_{index}" for index in range(classes)] + [f"n_class_{index}" for index in range(classes)]
    inline = per_class if classes <= CLASSES_INLINE else []
    columns = [name for column in COLUMNS for name in (inline if column == "classes" else [column])]
    files = [(stem.parent / f"{stem.name}.csv", columns)]
    if not inline:
        keys = ["protocol", "method", "seed", "checkpoint", "attack", "run_id"]
        files.append((stem.parent / f"{stem.name}.classes.csv", keys + per_class))
    for path, wanted in files:
        write_leaderboard(path, wanted, rows)
    return [path for path, _ in files]


def _aggregate(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Mean and sample standard deviation over the seeds of each method, checkpoint and attack."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("method", "checkpoint", "attack", "recipe_hash", "architecture"))
        groups.setdefault(key, []).append(row)
    for group in groups.values():
        first = group[0]
        numeric = [*FIGURES, *COSTS, *(key for key in first if key.startswith("class_"))]
        shared = {key: value for key, value in first.items() if all(row[key] == value for row in group)}
        table = np.array([[row[name] for name in numeric] for row in group], dtype=np.float64)
        spread = table.std(axis=0, ddof=1) if len(group) > 1 else np.full(len(numeric), math.nan)
        for seed, values in (("mean", table.mean(axis=0)), ("std", spread)):
            figures = dict(zip(numeric, values.tolist(), strict=True))
            own = {"seed": seed, "seeds": len(group), "run_id": "", "worst_class": "", "flags": _all_flags(group)}
            yield {**shared, **figures, **own}


def _all_flags(rows: Sequence[Mapping[str, Any]]) -> str:
    """The checks that are red in any row; `none` only if every row was checked."""
    red = dict.fromkeys(name for row in rows for name in row["flags"].split(";") if name not in ("", "none"))
    return ";".join(red) or ("none" if all(row["flags"] for row in rows) else "")


def _seed_key(seed: str) -> tuple[int, str]:
    return (int(seed), "") if seed.lstrip("-").isdigit() else (2**31, seed)
