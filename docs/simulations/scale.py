"""Print what planning, building, showing and a site cost as runs grow: `python docs/simulations/scale.py 10 100 1000`.

Runs are synthetic: specifications of a real plan, verdicts drawn at random, records as a finished run writes them. Each
step is the command that a user gives, in a process of its own, imports included. This process imports neither torch
nor fairbench, because Linux counts what a parent held before a command began as that command's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fairbench.suites.spec import RunSpec

SUITE, METHODS, IMAGES, CLASSES = "digits", ["sat", "trades", "rslad", "absld"], 500, 10
SEED, MAKE = 20240, "--make"
MOST_FOR_A_SITE = 1000  # a page holds every run's rows


def main() -> None:
    """Print the lines of the table for every number of runs given."""
    if sys.argv[1:2] == [MAKE]:
        run_folders(int(sys.argv[2]), Path(sys.argv[3]))
        return
    print("| runs | step | processor | wall | peak memory | written |")
    print("| ---: | :--- | ---: | ---: | ---: | ---: |")
    for size in map(int, sys.argv[1:] or ["10", "100", "1000"]):
        root = Path(tempfile.mkdtemp())
        try:
            measure(size, root)
        finally:
            shutil.rmtree(root)


def measure(size: int, root: Path) -> None:
    """Plan `size` runs, make them up, and take every step on them."""
    seeds = ",".join(map(str, seeds_of(size)))
    asked = ["run", SUITE, "--methods", ",".join(METHODS), "--seeds", seeds, "--dry-run"]
    line(size, "plan", asked, root)
    subprocess.run([sys.executable, __file__, MAKE, str(size), str(root)], check=True)
    line(size, "plan, all of it done", asked, root)
    boards = root / "leaderboards"
    line(size, "leaderboard build", ["leaderboard", "build", SUITE], root, boards)
    line(size, "leaderboard show", ["leaderboard", "show", SUITE], root)
    if size <= MOST_FOR_A_SITE:
        (board,) = boards.glob("*/v*.csv")
        line(size, "leaderboard html", ["leaderboard", "html", str(board), "--out", "site"], root, root / "site")
    for run in sorted((root / "results").glob("*/*/*"))[::2]:
        shutil.rmtree(run)
    line(size, "plan, half of it done", asked, root)


def seeds_of(size: int) -> range:
    """As many seeds as give each method its share of the runs."""
    return range(-(-size // len(METHODS)))


def line(size: int, name: str, command: list[str], root: Path, written: Path | None = None) -> None:
    """Run a command and print what it took."""
    where = [] if "--out" in command else ["--out", str(root)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    arguments = [sys.executable, "-m", "fairbench.cli", *command, *where]
    process = subprocess.Popen(arguments, cwd=root, env=environment, stdout=subprocess.DEVNULL)
    _, status, spent = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{name} ended with {process.returncode}")
    made = megabytes(written) if written else ""
    processor = spent.ru_utime + spent.ru_stime
    print(
        f"| {size:,} | {name} | {processor:.1f} s | {wall:.1f} s | {spent.ru_maxrss / 1000:.0f} MB | {made} |",
        flush=True,
    )


def megabytes(path: Path) -> str:
    """Size of all files of a folder."""
    return f"{sum(each.stat().st_size for each in path.rglob('*') if each.is_file()) / 1e6:.1f} MB"


def run_folders(size: int, root: Path) -> None:
    """Plan `size` runs and make them up."""
    from fairbench.run.benchmark import prepare_plan

    make_up(prepare_plan(SUITE, methods=METHODS, seeds=seeds_of(size)), root)


def make_up(specs: Iterable[RunSpec], root: Path) -> None:
    """Write the folders of finished runs: clean accuracies near 0.9, robust ones near 0.5, class by class."""
    from fairbench.results.folder import RunFolder

    rng = np.random.default_rng(SEED)
    labels = np.arange(IMAGES) % CLASSES
    for spec in specs:
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


if __name__ == "__main__":
    main()
