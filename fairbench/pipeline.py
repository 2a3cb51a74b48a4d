"""One run from specification to finished folder: train, select, evaluate, each picking up what is already there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fairbench import provenance
from fairbench.attacks import resolve
from fairbench.config import RunSpec
from fairbench.cost import CostMeter, peak_memory_mb
from fairbench.data import Dataset, Split, balanced_subset, load_dataset
from fairbench.errors import Diverged, InvalidInput, Missing
from fairbench.evaluate import attack_verdicts
from fairbench.metrics import summarise
from fairbench.models import load_checkpoint, open_model, weights_hash
from fairbench.results import RunFolder
from fairbench.train import Progress, train

__all__ = ["evaluate_run", "execute", "is_done", "train_run"]


def execute(spec: RunSpec, results: Path, *, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Bring a run to completion in its folder below `results` and return its record; a finished run costs nothing.

    Raises Missing when its teacher has not been trained, Diverged when training does.
    """
    folder = RunFolder(results / spec.folder)
    with folder.lock(lambda: progress("waiting", 0, 1, "another process works on this run")):
        if is_done(spec, folder):
            return folder.read()
        dataset = load_dataset(spec.data.name)
        if dataset.hash != spec.data_hash:
            raise InvalidInput(f"data set {spec.data.name} changed since the run was planned")
        train_run(spec, folder, dataset, results, progress=progress)
        return evaluate_run(spec, folder, dataset, progress=progress)


def is_done(spec: RunSpec, folder: RunFolder) -> bool:
    """Whether the run is complete under the protocol as it is now; raises CorruptFile on a bad checksum."""
    record = folder.read()
    if record.get("status") != "complete" or record["protocols"].get(str(spec.version)) != _protocol(spec):
        return False
    folder.verify()
    return folder.verdicts.exists()


def train_run(
    spec: RunSpec, folder: RunFolder, dataset: Dataset, results: Path, *, progress: Progress = lambda *_: None
) -> dict[str, Any]:
    """Train the run unless its folder holds the trained weights; returns the record."""
    record = folder.read()
    if record.get("status") in {"trained", "complete"}:
        folder.drop_resume()
        return record
    try:
        cost = train(
            spec,
            folder,
            dataset,
            teacher=_open(spec.teacher, results, spec.environment.device),
            natural_teacher=_open(spec.natural_teacher, results, spec.environment.device),
            warm_start=_open(spec.warm_start, results, spec.environment.device),
            device=spec.environment.device,
            progress=progress,
        )
    except Diverged as error:
        folder.write({**_header(spec, dataset), "status": "diverged", "error": str(error)})
        raise
    record = {**_header(spec, dataset), "status": "trained", "cost": {**cost, "peak_memory_mb": peak_memory_mb()}}
    folder.write(record)
    folder.drop_resume()
    return folder.read()


def evaluate_run(
    spec: RunSpec, folder: RunFolder, dataset: Dataset, *, progress: Progress = lambda *_: None
) -> dict[str, Any]:
    """Attack the run's checkpoints with the protocol's attacks that have no verdicts yet; returns the record."""
    record = folder.read()
    if record.get("status") not in {"trained", "complete"}:
        raise Missing(f"{folder.path}: has no trained weights to evaluate")
    test = balanced_subset(dataset.test, spec.data.test_per_class)
    stored = {key: value for key, value in folder.read_verdicts().items() if key != "labels"}
    record.setdefault("evaluations", {})
    if record["status"] == "complete":  # until the new verdicts are in, no checksum vouches for the file they go to
        folder.write({**record, "status": "trained"})
    hashes = {}
    for kind in ("best", "last"):
        model, _ = load_checkpoint(folder.best if kind == "best" else folder.last, spec.model)
        hashes[kind] = weights_hash(model)
        model = model.to(memory_format=torch.channels_last)
        for text in getattr(spec.evaluation, kind):
            key = f"{kind}/{text}"
            if key not in stored or key not in record["evaluations"]:
                stored[key], record["evaluations"][key] = _attack(spec, model, test, text, progress, key)
                folder.write_verdicts(test.labels, stored)
                folder.write({**record, "status": "trained"})
    record["weights"] = hashes
    record["metrics"] = _metrics(stored, test.labels, dataset.num_classes)
    record.setdefault("protocols", {})[str(spec.version)] = _protocol(spec)
    folder.write({**record, "status": "complete"})
    return folder.read()


def _attack(
    spec: RunSpec, model: nn.Module, test: Split, text: str, progress: Progress, key: str
) -> tuple[Any, dict[str, Any]]:
    meter = CostMeter()
    with meter.measure(model):
        verdicts = attack_verdicts(
            model,
            test.images,
            test.labels,
            [resolve(text, spec.threat)],
            batch_size=spec.evaluation.batch_size,
            device=spec.environment.device,
            seed=spec.evaluation.seed,
            progress=lambda _attack, done, total: progress(f"evaluate {key}", done, total, ""),
        )
    (predicted,) = verdicts.predicted.values()
    return predicted, {**meter.as_dict(), "peak_memory_mb": peak_memory_mb(), "threads": torch.get_num_threads()}


def _metrics(stored: dict[str, Any], labels: Any, num_classes: int) -> dict[str, dict[str, Any]]:
    """Headline figures for a reader of `run.json`; the leaderboard computes its own from the verdicts."""
    found = {}
    for key, predicted in stored.items():
        summary = summarise(labels, predicted, num_classes)
        found[key] = {
            "average": round(summary.average, 4),
            "worst": round(summary.worst, 4),
            "worst_class": int(summary.worst_class),
            "nsd": round(summary.nsd, 4) if np.isfinite(summary.nsd) else None,
        }
    return found


def _protocol(spec: RunSpec) -> dict[str, Any]:
    """What a version of the suite asked of this run, by which its rows are put on a board."""
    return {
        "hash": spec.protocol,
        "best": list(spec.evaluation.best),
        "last": list(spec.evaluation.last),
        "quick": spec.quick,
        "custom": spec.custom,
    }


def _open(given: RunSpec | str | None, results: Path, device: str) -> nn.Module | None:
    """Open a prerequisite's best weights, frozen; raises Missing when its run has not been trained."""
    if given is None:
        return None
    if isinstance(given, RunSpec):
        path = RunFolder(results / given.folder).best
        if not path.exists():
            raise Missing(f"{path}: the {given.role} has not been trained yet")
        model, _ = load_checkpoint(path, given.model)
    else:
        model = open_model(given.rpartition("#")[0])
    model.eval().requires_grad_(False)
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _header(spec: RunSpec, dataset: Dataset) -> dict[str, Any]:
    return {
        "run_id": spec.run_id,
        "suite": spec.suite,
        "method": spec.label,
        "seed": spec.seed,
        "spec": spec.model_dump(mode="json"),
        "class_names": list(dataset.class_names),
        "provenance": provenance.as_record(),
    }
