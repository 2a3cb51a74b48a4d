"""Write the costs that `fairbench run` estimates with: `python docs/costs.py` after new results were committed.

The committed seconds are those of the machines that made the runs, with their load and their engine. To turn them into
processor seconds of this machine, the script trains SAT on digits here, evaluates it with AutoAttack, and scales all
trainings and all attacks by what it measures. It needs about a minute of processor time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

import fairbench
from fairbench.files import write_json
from fairbench.run.benchmark import prepare_plan
from fairbench.run.costs import FILE, collect
from fairbench.run.pipeline import execute_run

ROOT = Path(__file__).resolve().parents[1]
METHOD, ATTACK = "sat", "autoattack-fast"
EPOCHS = (2, 8)  # the difference of two trainings has no start-up in it


def stage_seconds(epochs: int) -> Mapping[str, float]:
    """Return the processor seconds of the stages of a run of SAT on digits with so many epochs, by name."""
    settings = {"recipe.epochs": epochs, "evaluation.best": ["clean", ATTACK], "evaluation.last": ["clean"]}
    (spec,) = prepare_plan("digits", methods=[METHOD], seeds=[0], overrides=settings)
    spent: dict[str, float] = {}
    stage, since = "", time.process_time()

    def progress(name: str, *_: object) -> None:
        nonlocal stage, since
        now = time.process_time()
        spent[stage] = spent.get(stage, 0.0) + now - since
        stage, since = name, now

    with tempfile.TemporaryDirectory() as folder:
        execute_run(spec, Path(folder), progress=progress)
    progress("")
    return spent


def main() -> None:
    """Collect the committed costs, scale them to processor seconds of this machine, and write the file."""
    torch.set_num_threads(1)
    found = collect(ROOT / "results")
    entry = next(entry for key, entry in found["costs"].items() if " digits " in key and METHOD in entry["epochs"])
    short, long = map(stage_seconds, EPOCHS)
    measured = {
        "epochs": ((long["train"] - short["train"]) / (EPOCHS[1] - EPOCHS[0]), entry["epochs"][METHOD]),
        "attacks": (long[f"evaluate best/{ATTACK}"] / entry["images"], entry["attacks"][ATTACK]),
    }
    for kind, (here, there) in measured.items():
        print(f"{kind}: {here:.3g} processor seconds here, {there:.3g} s in the committed results")
        for costs in found["costs"].values():
            costs[kind] = {name: float(f"{seconds * here / there:.3g}") for name, seconds in costs[kind].items()}
    path = Path(fairbench.__file__).parent / "run" / FILE
    write_json(path, found)
    print(path)


if __name__ == "__main__":
    main()
