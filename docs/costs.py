"""Write the costs that `fairbench run` estimates with: `python docs/costs.py` after new results were committed.

The committed seconds are those of the machines that made the runs, with their load and their engine. To turn them into
processor seconds of this machine, the script trains SAT on each dataset here. It scales all costs of the dataset by the
ratio to the committed runs of SAT. It needs about two minutes of processor time, and the CIFAR files.
"""

from __future__ import annotations

import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch

import fairbench
from fairbench.files import write_json
from fairbench.run.benchmark import prepare_plan
from fairbench.run.costs import FILE, collect, cost_key
from fairbench.run.pipeline import execute_run
from fairbench.suites.spec import RunSpec

ROOT = Path(__file__).resolve().parents[1]
METHOD = "sat"
# The suite of each dataset whose run of METHOD is measured. Costs on other datasets are left out.
SUITES = {"digits": "digits", "cifar10-exact": "cifar10-micro", "cifar100": "cifar100-micro"}
EPOCHS = 6


def reference(suite: str) -> RunSpec:
    """Return the run of METHOD in a suite that is measured."""
    settings = {"recipe.epochs": EPOCHS, "evaluation.best": ["clean"], "evaluation.last": ["clean"]}
    (spec,) = prepare_plan(suite, methods=[METHOD], seeds=[0], overrides=settings)
    return spec


def epoch_seconds(spec: RunSpec) -> float:
    """Return the median processor seconds of the epochs of a run, without the first, which compiles and loads."""
    ends: list[float] = []

    def progress(stage: str, *_: object) -> None:
        if stage == "train":
            ends.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        execute_run(spec, Path(folder), progress=progress)
    return median(after - before for before, after in pairwise(ends))


def main() -> None:
    """Collect the committed costs, scale them to processor seconds of this machine, and write the file."""
    torch.set_num_threads(1)
    found = collect(ROOT / "results")
    scales = {}
    for dataset, suite in SUITES.items():
        spec = reference(suite)
        here, there = epoch_seconds(spec), found["costs"][cost_key(spec)]["epochs"][METHOD]
        print(f"{dataset}: {here:.3g} processor seconds an epoch here, {there:.3g} s in the committed results")
        scales[dataset] = here / there
    scaled = {}
    for name, costs in found["costs"].items():
        scale = scales.get(name.split()[1].partition(":")[0])
        if scale is not None:
            scaled[name] = costs | {
                kind: {key: float(f"{seconds * scale:.3g}") for key, seconds in costs[kind].items()}
                for kind in ("epochs", "attacks")
            }
    path = Path(fairbench.__file__).parent / "run" / FILE
    write_json(path, found | {"costs": scaled})
    print(path)


if __name__ == "__main__":
    main()
