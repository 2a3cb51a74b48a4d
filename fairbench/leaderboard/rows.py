"""The leaderboard rows of one run: figures from its verdicts, costs, and origin."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairbench.errors import CorruptFile, Missing
from fairbench.evaluation.verdicts import UNION
from fairbench.leaderboard.columns import FIGURES, SCHEMA
from fairbench.results.folder import RunFolder
from fairbench.statistics import metrics
from fairbench.suites.sections import DataConfig, Environment
from fairbench.suites.spec import RunSpec
from fairbench.suites.values import digest

__all__ = ["KINDS", "rows_of", "settings_hash", "training_cost"]

KINDS = ("best", "last")


def rows_of(folder: RunFolder, record: Mapping[str, Any], version: str) -> Iterator[dict[str, Any]]:
    """Return the leaderboard rows of one run: one per checkpoint kind and attack of a protocol, then their union."""
    verdicts = folder.vouched_verdicts(record)
    if "labels" not in verdicts:
        raise CorruptFile(f"{folder.verdicts}: holds no verdicts; `fairbench run` evaluates the run again")
    labels, protocol = verdicts["labels"], record["protocols"][version]
    names, cost = record["class_names"], training_cost(folder, record)
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


def settings_hash(spec: RunSpec) -> str:
    """Return the hash of a run's settings except its seed, its environment and the runs that it was built on."""
    apart = {
        "seed": 0,
        "environment": Environment(torch=""),
        "teacher": None,
        "natural_teacher": None,
        "warm_start": None,
    }
    return spec.model_copy(update=apart).run_id


def training_cost(folder: RunFolder, record: Mapping[str, Any]) -> dict[str, float]:
    """Return the cost of the training and of its warm start; raises Missing without the latter."""
    own, warm = record["cost"], record["spec"].get("warm_start")
    if not isinstance(warm, Mapping):
        return dict(own)
    home = folder.path.absolute().parents
    start = RunFolder(home[min(2, len(home) - 1)] / RunSpec.model_validate(warm).folder)
    before = start.read().get("cost")
    if before is None:
        raise Missing(f"{start.run}: the warm start of {folder.path} is not there")
    spent = {name: own[name] + before[name] for name in ("train_seconds", "forwards", "backwards", "flops")}
    return {**own, **spent, "peak_memory_mb": max(own["peak_memory_mb"], before["peak_memory_mb"])}


def _description(spec: RunSpec, record: Mapping[str, Any], version: str, cost: Mapping[str, float]) -> dict[str, Any]:
    """Return the values that all rows of a run share."""
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
        "command": record["protocols"][version].get("command") or spec.command,
        "created": origin["created"],
        "run_id": record["run_id"],
        "packages": ";".join(f"{name}={version}" for name, version in origin.get("packages", {}).items()),
        "split_hash": digest({"data": spec.data_hash, **_split(spec.data)}),
        "config_hash": settings_hash(spec),
    }


def _schema(protocol: Mapping[str, Any]) -> int:
    """Return the schema of a leaderboard, which its protocol sets, so that older suite versions are built as before."""
    return SCHEMA if protocol.get("metrics") == 2 else 2


def _split(data: DataConfig) -> dict[str, Any]:
    """Return the settings of the data split; newer settings are left out while they are not used."""
    found = data.model_dump(mode="json", exclude={"name"})
    return {name: value for name, value in found.items() if value is not None or name == "test_per_class"}


def _budget(folder: RunFolder, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return the optional columns of a run: its budget, how its settings were found, and its accuracy in training."""
    if "tuning" not in protocol:
        return {}
    rows = folder.read_history()
    robust = rows[-1].get("train_correct_adv", "") if rows else ""
    try:
        share = float(robust) if robust else math.nan
    except ValueError:
        raise CorruptFile(f"{folder.history}: train_correct_adv {robust!r:.80} is not a number") from None
    return {"budget_hash": protocol["budget"], "tuning": protocol["tuning"], "train_robust": share}


def _flags(record: Mapping[str, Any], kind: str) -> str:
    """Return the names of a checkpoint's red flags, `none` if flags were checked, empty if they were not."""
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
