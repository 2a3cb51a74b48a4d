"""Measure the costs that `fairbench run` estimates with, after new results were committed:

    python docs/costs.py --write fairbench/run/costs.json

The committed seconds are those of the machines that made the runs, with their load and their engine. To turn them into
processor seconds of this machine, the script trains SAT on each dataset here. It scales all costs of the dataset by the
ratio to the committed runs of SAT. It needs about two minutes of processor time, and the CIFAR files.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from fairbench.files import write_json
from fairbench.run.benchmark import prepare_plan
from fairbench.run.costs import collect, cost_key
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


def measured() -> dict[str, Any]:
    """Collect the committed costs and scale them to processor seconds of this machine; return the file's content."""
    torch.set_num_threads(1)
    found = collect(ROOT / "results")
    scales = {}
    for dataset, suite in SUITES.items():
        spec = reference(suite)
        here, there = epoch_seconds(spec), found["costs"][cost_key(spec)]["epochs"][METHOD]
        print(
            f"{dataset}: {here:.3g} processor seconds an epoch here, {there:.3g} s in the committed results",
            file=sys.stderr,
        )
        scales[dataset] = here / there
    scaled = {}
    for name, costs in found["costs"].items():
        scale = scales.get(name.split()[1].partition(":")[0])
        if scale is not None:
            scaled[name] = costs | {
                kind: {key: float(f"{seconds * scale:.3g}") for key, seconds in costs[kind].items()}
                for kind in ("epochs", "attacks")
            }
    return found | {"costs": scaled}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the costs, or write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="file to write")
    given = parser.parse_args(arguments)
    if given.write is None:
        print(json.dumps(measured(), indent=1))
    else:
        write_json(given.write, measured())


if __name__ == "__main__":
    main()
