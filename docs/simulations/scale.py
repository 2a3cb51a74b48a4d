"""Print what planning, a dry run and a leaderboard cost as runs grow: `python docs/simulations/scale.py 10 100 1000`.

Runs are synthetic: specifications of a real plan, verdicts drawn at random, records as a finished run writes them. Each
step runs in a process of its own; CPU seconds are its user and system time after the imports, memory its peak.
"""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fairbench.benchmark import find_board, prepare
from fairbench.config import RunSpec
from fairbench.forecast import forecast
from fairbench.leaderboard import builder
from fairbench.leaderboard.board import load_leaderboard
from fairbench.results import RunFolder

SUITE, METHODS, IMAGES, CLASSES = "digits", ["sat", "trades", "rslad", "absld"], 500, 10
SEED = 20240


def main() -> None:
    """Print a row of the table for every number of runs given."""
    print("| runs | plan | dry run | build | show | build, memory | board |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for size in map(int, sys.argv[1:] or ["10", "100", "1000"]):
        root = Path(tempfile.mkdtemp())
        try:
            print(row(size, root), flush=True)
        finally:
            shutil.rmtree(root)


def row(size: int, root: Path) -> str:
    """Make runs, take every step on them, and return what it cost."""
    run_folders(size, root)
    plan = measured(lambda: specifications(size))
    dry = measured(lambda: forecast(specifications(size), root / "results"))
    build = measured(lambda: builder.build(root / "results", root / "leaderboards", SUITE))
    show = measured(lambda: load_leaderboard(find_board(SUITE, root)))
    seconds = " | ".join(f"{cpu:.1f} s" for cpu in (plan[0], max(0.0, dry[0] - plan[0]), build[0], show[0]))
    size_mb = find_board(SUITE, root).stat().st_size / 1e6
    return f"| {size:,} | {seconds} | {build[1]:.0f} MB | {size_mb:.1f} MB |"


def specifications(size: int) -> list[RunSpec]:
    """The plan of `size` runs, the teacher not counted."""
    return prepare(SUITE, methods=METHODS, seeds=range(-(-size // len(METHODS))))[: size + 1]


def run_folders(size: int, root: Path) -> None:
    """Write the folders of finished runs: clean accuracies near 0.9, robust ones near 0.5, class by class."""
    rng = np.random.default_rng(SEED)
    labels = np.arange(IMAGES) % CLASSES
    for spec in specifications(size):
        folder = RunFolder(root / "results" / spec.folder)
        keys = [f"{kind}/{text}" for kind in ("best", "last") for text in getattr(spec.evaluation, kind)]
        predicted = {}
        for key in keys:
            held = rng.random(IMAGES) < (0.9 if key.endswith("clean") else 0.4 + 0.02 * labels)
            predicted[key] = np.where(held, labels, (labels + rng.integers(1, CLASSES, IMAGES)) % CLASSES)
        folder.write_verdicts(labels, predicted)
        folder.write(record(spec, keys))


def record(spec: RunSpec, keys: list[str]) -> dict[str, Any]:
    """What `run.json` says of a finished run."""
    cost = {"forwards": 10**6, "backwards": 10**6, "flops": 10**12, "peak_memory_mb": 900.0}
    asked = {"best": list(spec.evaluation.best), "last": list(spec.evaluation.last)}
    return {
        "run_id": spec.run_id,
        "suite": spec.suite,
        "method": spec.label,
        "seed": spec.seed,
        "spec": spec.model_dump(mode="json"),
        "class_names": [str(label) for label in range(CLASSES)],
        "provenance": {"commit": "", "dirty": False, "packages": {}, "created": "2026-01-01T00:00:00Z"},
        "status": "complete",
        "cost": {"train_seconds": 60.0, **cost, "best_epoch": 0},
        "evaluations": {key: {**cost, "seconds": 1.0, "threads": 1} for key in keys},
        "weights": {"best": "0" * 64, "last": "0" * 64},
        "metrics": {},
        "protocols": {str(spec.version): {"hash": spec.protocol, **asked, "quick": False, "custom": False}},
    }


def measured(step: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of a step, in a child that has imported everything."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_measure, args=(step, there))
    child.start()
    answer: tuple[float, float] = here.recv()
    child.join()
    return answer


def _measure(step: Callable[[], object], answer: Any) -> None:
    start = time.process_time()
    step()
    answer.send((time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000))


if __name__ == "__main__":
    main()
