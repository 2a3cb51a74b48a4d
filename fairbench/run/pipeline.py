"""One run from specification to complete folder: train, select, evaluate. Each stage resumes from what is stored."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fairbench import distributed
from fairbench.attacks import resolve
from fairbench.copies import Engine, require
from fairbench.cost import CostMeter, peak_memory_mb
from fairbench.data import Dataset, Split, balanced_subset, load_dataset
from fairbench.errors import CorruptFile, Diverged, InvalidInput, Missing
from fairbench.evaluation.flags import raise_flags
from fairbench.evaluation.journal import Journal
from fairbench.evaluation.shards import sharded_verdicts
from fairbench.evaluation.store import pack
from fairbench.evaluation.verdicts import Verdicts
from fairbench.files import set_aside
from fairbench.models import weights_hash
from fairbench.results.folder import RunFolder
from fairbench.run.entries import header_of, headline_figures, is_recorded, standing_of, with_protocol
from fairbench.run.networks import open_prerequisite, open_weights
from fairbench.run.sources import outdated, source_of_attack
from fairbench.suites.spec import RunSpec
from fairbench.train.logger import open_loggers
from fairbench.train.loop import TrainingProgress, train

__all__ = ["attack_checkpoint", "evaluate_run", "execute_run", "is_done", "train_run", "train_weights"]


def execute_run(
    spec: RunSpec,
    results: Path,
    *,
    progress: TrainingProgress = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Bring a run to completion in its folder below `results` and return its record; a complete run costs nothing.

    A run `until` "trained" is not evaluated, and a trial of the tuning keeps its history alone, not its weights. A
    damaged file is moved aside and replaced; `say` receives one line about each. Raises Missing if the run's teacher
    has not been trained, and Diverged if the training diverges.
    """
    folder = RunFolder(results / spec.folder)
    with folder.lock(lambda: progress("waiting", 0, 1, "another process works on this run")):
        _set_damage_aside(folder, say)
        if is_done(spec, folder):
            return folder.read()
        _engine(spec)
        dataset = load_dataset(spec.data.name, train_per_class=spec.data.train_per_class)
        if dataset.hash != spec.data_hash:
            raise InvalidInput(f"dataset {spec.data.name} changed since the run was planned")
        try:
            train_run(spec, folder, dataset, results, progress=progress)
        except CorruptFile as error:
            if error.path not in (folder.resume, folder.best):
                raise
            _start_over(folder, error, say)
            train_run(spec, folder, dataset, results, progress=progress)
        except Diverged:
            if spec.trial is None:  # a diverging setting is a result of the tuning, not a failure
                raise
            folder.drop_resume()
        if spec.until == "trained":
            return _without_weights(folder) if spec.trial else folder.read()
        return evaluate_run(spec, folder, dataset, progress=progress)


def is_done(spec: RunSpec, folder: RunFolder) -> bool:
    """Whether the run is complete under the current protocol and none of its files is damaged.

    A run `until` "trained" is complete after its training. A trial that diverged is complete.
    """
    if folder.damage():
        return False
    record = folder.read()
    if spec.trial is not None:
        return record.get("status") in {"trained", "diverged"}
    if spec.until == "trained":
        return record.get("status") in {"trained", "complete"} and folder.best.exists()
    if record.get("status") != "complete" or not is_recorded(spec, record) or outdated(spec, record):
        return False
    return folder.verdicts.exists()


def _without_weights(folder: RunFolder) -> dict[str, Any]:
    """Remove a finished trial's weights, which nothing reads, and return its record."""
    for path in (folder.best, folder.last):
        path.unlink(missing_ok=True)
    return folder.read()


def _set_damage_aside(folder: RunFolder, say: Callable[[str], None]) -> None:
    """Move damaged files aside; if weights, history or the record are among them, mark the run for a new training."""
    damage = folder.damage()
    if damage.keys() & {folder.best, folder.last, folder.history} and folder.run not in damage:
        # before the move, because a kill in between must not hide the damage
        folder.write({**folder.read(), "status": "damaged"})
    for path, reason in damage.items():
        say(f"{reason}; moved to {set_aside(path).name}; the run replaces it")


def _start_over(folder: RunFolder, error: CorruptFile, say: Callable[[str], None]) -> None:
    """Move the damaged file of an unfinished training aside and delete the state it would have resumed from."""
    assert error.path is not None
    moved = f"moved to {set_aside(error.path).name}, and " if error.path.exists() else ""
    say(f"{error}; {moved}trained again from the start")
    folder.drop_resume()


def train_run(
    spec: RunSpec, folder: RunFolder, dataset: Dataset, results: Path, *, progress: TrainingProgress = lambda *_: None
) -> dict[str, Any]:
    """Train the run unless its folder holds the trained weights; returns the record."""
    record = folder.read()
    if record.get("status") in {"trained", "complete"}:
        folder.drop_resume()
        return record
    if spec.checkpoint is not None:  # the checkpoint is trained already
        none = dict.fromkeys(("train_seconds", "forwards", "backwards", "flops", "peak_memory_mb"), 0)
        folder.write({**header_of(spec, dataset), "status": "trained", "cost": none})
        return folder.read()
    try:
        distributed.tell({"do": "train"})
        cost = train_weights(spec, folder, dataset, results, progress=progress)
    except Diverged as error:
        folder.write({**header_of(spec, dataset), "status": "diverged", "error": str(error)})
        raise
    record = {**header_of(spec, dataset), "status": "trained", "cost": {**cost, "peak_memory_mb": peak_memory_mb()}}
    folder.write(record)
    folder.drop_resume()
    return folder.read()


def train_weights(
    spec: RunSpec, folder: RunFolder, dataset: Dataset, results: Path, *, progress: TrainingProgress = lambda *_: None
) -> dict[str, Any]:
    """Open the run's prerequisites and train it; all ranks call this with equal arguments.

    Returns the cost; raises Missing, and what `train` raises.
    """
    return train(
        spec,
        folder,
        dataset,
        teacher=open_prerequisite(spec.teacher, results, spec.environment.device),
        natural_teacher=open_prerequisite(spec.natural_teacher, results, spec.environment.device),
        warm_start=open_prerequisite(spec.warm_start, results, spec.environment.device),
        device=spec.environment.device,
        progress=progress,
        loggers=open_loggers(),
    )


def evaluate_run(
    spec: RunSpec, folder: RunFolder, dataset: Dataset, *, progress: TrainingProgress = lambda *_: None
) -> dict[str, Any]:
    """Run every attack of the protocol that has no verdicts yet on the run's checkpoints; returns the record.

    `partial.jsonl` holds the verdicts of the attack in progress, up to its last finished batch. A checkpoint without
    any verdicts also gets the sanity flags of `fairbench.evaluation.flags`. A finished run stays complete, with the
    protocols that it has, while attacks of another are added.
    """
    record = folder.read()
    if record.get("status") not in {"trained", "complete"}:
        raise Missing(f"{folder.path}: has no trained weights to evaluate")
    test = balanced_subset(dataset.test, spec.data.test_per_class)
    stored = {key: value for key, value in folder.read_verdicts().items() if key != "labels"}
    done = record.setdefault("evaluations", {}).keys() & stored.keys() - outdated(spec, record)
    record["status"] = standing_of(record, stored)
    hashes = {}
    for kind in ("best", "last"):
        model = open_weights(spec, folder, kind)
        hashes[kind] = weights_hash(model)
        keys = {f"{kind}/{text}": text for text in getattr(spec.evaluation, kind)}
        asked = {key: text for key, text in keys.items() if key not in done}
        if asked and kind not in record.setdefault("flags", {}):
            record["flags"][kind] = _flags(spec, model, test)
        for key, text in asked.items():
            source = source_of_attack(text, spec.threat)
            own = {} if source is None else {"source_hash": source}
            about = {"key": key, "weights": hashes[kind], "images": len(test.labels), **own}
            journal = Journal(folder.partial, about)
            distributed.tell({"do": "attack", "kind": kind, "attack": text})
            verdicts, cost = attack_checkpoint(spec, model, test, text, journal, progress, key)
            stored |= pack(verdicts, kind)
            if folder.read()["status"] == "complete":  # with the checksum of the verdicts that are replaced now
                folder.write({**record, "status": "trained"})
            folder.write_verdicts(test.labels, stored)
            record["evaluations"][key] = cost | own
            folder.write(record)
            journal.remove()
    folder.partial.unlink(missing_ok=True)  # a kill may fall between storing verdicts and removing their journal
    record["weights"] = hashes
    known = {key: stored[key] for key in record["evaluations"] if key in stored}
    record["metrics"] = headline_figures(known, test.labels, dataset.num_classes)
    folder.write({**record, **with_protocol(spec, record), "status": "complete"})
    return folder.read()


def attack_checkpoint(
    spec: RunSpec,
    model: nn.Module,
    test: Split,
    text: str,
    journal: Journal,
    progress: TrainingProgress = lambda *_: None,
    key: str = "",
) -> tuple[Verdicts, dict[str, Any]]:
    """Run one attack on all images; all ranks call this with equal arguments.

    Returns the verdicts and, on rank 0, their cost.
    """
    attack = replace(resolve(text, spec.threat), text=text)  # records and boards keep the suite's order of arguments
    meter, start = CostMeter(**journal.spent), time.perf_counter()
    journal.cost = lambda: {**meter.as_dict(), "seconds": meter.seconds + time.perf_counter() - start}
    with meter.measure(model):
        verdicts = sharded_verdicts(
            model,
            test.images,
            test.labels,
            [attack],
            batch_size=spec.evaluation.batch_size,
            device=spec.environment.device,
            seed=spec.evaluation.seed,
            engine=_engine(spec),
            progress=lambda _attack, done, total: progress(f"evaluate {key}", done, total, ""),
            journals={attack.text: journal},
            meter=meter,
        )
    machine = {"threads": torch.get_num_threads(), "ranks": distributed.world(), "engine": verdicts.engine}
    return verdicts, {**meter.as_dict(), "peak_memory_mb": peak_memory_mb(), **machine}


def _engine(spec: RunSpec) -> Engine:
    """The engine that crafts a run's evaluations; raises Missing if this machine does not have it."""
    return require(spec.environment.engine or "plain")


def _flags(spec: RunSpec, model: nn.Module, test: Split) -> dict[str, dict[str, Any]]:
    how: dict[str, Any] = {"device": spec.environment.device, "seed": spec.evaluation.seed, "engine": _engine(spec)}
    found = raise_flags(model, test.images, test.labels, spec.threat, **how)
    return {name: asdict(flag) for name, flag in found.items()}
