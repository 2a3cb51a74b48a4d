"""Processor seconds of trainings and attacks, shipped with the package and scaled to this machine by a probe."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn import functional

from fairbench.errors import FairbenchError
from fairbench.files import read_json
from fairbench.results.folder import RunFolder
from fairbench.suites.spec import RunSpec

__all__ = ["Costs", "Probe", "collect", "cost_key", "probe", "shipped"]

PROBE_SECONDS = 0.8
# Processor seconds of a worker process before its first batch, mostly imports, on the machine of the probe in FILE.
START_SECONDS = 5.0
FILE = "costs.json"


@dataclass(frozen=True)
class Costs:
    """Median seconds of an epoch by method and of an attack on one image by its text; size of the test set.

    `start` are the seconds before the first epoch or attack of a run.
    """

    epochs: Mapping[str, float]
    attacks: Mapping[str, float]
    images: int
    classes: int
    start: float = 0.0

    def epoch(self, method: str) -> float | None:
        """Seconds of an epoch; a method that was not measured gets the median over all methods."""
        known = self.epochs.get(method)
        return known if known is not None or not self.epochs else median(self.epochs.values())

    def attack(self, text: str, per_class: int | None = None) -> float | None:
        """Seconds of an attack on the test set, or on `per_class` images of each class; None if it was not measured."""
        images = self.images if per_class is None else min(self.images, per_class * self.classes)
        return None if text not in self.attacks else self.attacks[text] * images


@dataclass(frozen=True)
class Probe:
    """Speed and load of a machine: processor seconds of a fixed computation, wall seconds per processor second."""

    seconds: float
    load: float


def cost_key(spec: RunSpec) -> str:
    """Return the name of a run's costs: network, dataset with the training images that count of a class, and device."""
    counted = "" if spec.data.train_per_class is None else f":{spec.data.train_per_class}"
    return f"{spec.model} {spec.data.name}{counted} {spec.environment.device}"


def shipped(spec: RunSpec) -> Costs | None:
    """Return the shipped costs of runs like this one in wall seconds of this machine; None without a measurement.

    They are scaled by the speed of this machine and by its present load, both from `probe`.
    """
    table = _table()
    found = table["costs"].get(cost_key(spec))
    if found is None:
        return None
    found_here = probe()
    factor = found_here.load * found_here.seconds / table["probe"]
    epochs, attacks = (
        {name: seconds * factor for name, seconds in found[kind].items()} for kind in ("epochs", "attacks")
    )
    return Costs(epochs, attacks, found["images"], found["classes"], START_SECONDS * factor)


@cache
def probe() -> Probe:
    """Measure this machine for about a second with small training steps on the CPU and one thread.

    `seconds` are those of the fastest ten steps, in processor time, which other programs disturb least. `load` is at
    least 1: it is above 1 while other programs use the same cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(32, 16, 8, 8, generator=generator)
        kernel = torch.rand(32, 16, 3, 3, generator=generator).requires_grad_()
        found, begin, used = [], time.perf_counter(), time.process_time()
        while time.perf_counter() - begin < PROBE_SECONDS:
            start = time.process_time()
            for _ in range(10):
                functional.conv2d(x, kernel, padding=1).relu().sum().backward()  # type: ignore[no-untyped-call]
            found.append(time.process_time() - start)
        wall, processor = time.perf_counter() - begin, time.process_time() - used
    finally:
        torch.set_num_threads(threads)
    return Probe(min(found), max(1.0, wall / processor))


def collect(results: Path) -> dict[str, Any]:
    """Return the content of the shipped file: medians over the complete runs below `results`, and a probe of today.

    The seconds are those of the machines that made the runs; `docs/costs.py` scales them to the machine of the probe.
    """
    epochs: dict[str, dict[str, list[float]]] = {}
    attacks: dict[str, dict[str, list[float]]] = {}
    sizes: dict[str, dict[str, int]] = {}
    for path in sorted(results.glob("*/*/*/run.json")):
        try:
            record = RunFolder(path.parent).read()
            spec = RunSpec.model_validate(record["spec"])
        except (FairbenchError, ValueError, KeyError):
            continue
        if record.get("status") != "complete" or spec.checkpoint is not None or spec.published is not None:
            continue
        key = cost_key(spec)
        seconds = record["cost"]["train_seconds"] / spec.recipe.epochs
        epochs.setdefault(key, {}).setdefault(spec.label, []).append(seconds)
        images = len(RunFolder(path.parent).read_verdicts()["labels"])
        if spec.data.test_per_class is None:
            sizes[key] = {"images": images, "classes": len(record["class_names"])}
        for name, cost in record["evaluations"].items():
            text = name.partition("/")[2]
            attacks.setdefault(key, {}).setdefault(text, []).append(cost["seconds"] / images)
    costs = {
        key: {**sizes[key], "epochs": _medians(epochs[key]), "attacks": _medians(attacks[key])} for key in sorted(sizes)
    }
    return {"probe": probe().seconds, "costs": costs}


def _medians(found: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: float(f"{median(seconds):.3g}") for name, seconds in sorted(found.items())}


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = read_json(Path(str(files("fairbench.run") / FILE)))
    return table
