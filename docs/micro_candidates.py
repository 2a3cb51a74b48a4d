"""Print what each candidate for `cifar10-micro` scores on held-out images: `python docs/micro_candidates.py`.

A candidate is a network, a number of training images a class, epochs, and the steps of the inner maximisation; together
they take about three processor minutes. SAT trains each with the suite's recipe, one seed. It is scored as a trial of
the tuning is: PGD-10 on 100 held-out images of every class after each of the last two epochs. No test image is read. A
finished candidate is not trained again (`--out`, by default `fairbench-out/micro-candidates`). Seconds are the
processor's.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import torch

from fairbench.results.folder import RunFolder
from fairbench.run.pipeline import execute_run
from fairbench.run.plan import plan
from fairbench.run.tuning.scores import score
from fairbench.suites.sections import Trial
from fairbench.suites.spec import RunSpec
from fairbench.suites.suite import Suite

HELD_OUT, SEED, EPOCHS = 100, 1000, 2


class Candidate(NamedTuple):
    """A network, training images of each class, epochs, and the inner maximisation's steps (count, size in epsilon)."""

    model: str
    images: int
    epochs: int
    steps: int
    rel_step: float


CANDIDATES = (
    Candidate("resnet-micro", 500, 14, 10, 0.25),
    Candidate("resnet-micro", 500, 38, 3, 0.5),
    Candidate("resnet-micro", 1000, 19, 3, 0.5),
    Candidate("resnet-micro:width=12", 1000, 26, 3, 0.5),
    Candidate("resnet-micro:width=24", 1000, 9, 3, 0.5),
)


def training(candidate: Candidate) -> RunSpec:
    """Return the run that trains a candidate, scored on held-out images and never evaluated."""
    suite = Suite.model_validate(
        {
            "name": "micro-candidates",
            "data": {
                "name": "cifar10-exact",
                "train_per_class": candidate.images + HELD_OUT,
                "validation_per_class": HELD_OUT,
            },
            "model": candidate.model,
            "threat": {"eps": 8 / 255},
            "recipe": {
                "epochs": candidate.epochs,
                "batch_size": 64,
                "lr": 0.1,
                "schedule": "onecycle",
                "weight_decay": 0.0005,
                "attack_steps": candidate.steps,
                "attack_rel_step": candidate.rel_step,
            },
            "selection": {"rule": "last"},
            "methods": ["sat"],
            "seeds": [SEED],
        }
    )
    (spec,) = plan(suite)
    trial = Trial(attack=suite.selection.attack, epochs=EPOCHS)
    return spec.model_copy(update={"trial": trial, "until": "trained"})


def row(candidate: Candidate, out: Path) -> str:
    """Train a candidate, or read what it scored, and return its row of the table."""
    spec = training(candidate)
    folder = RunFolder(out / spec.folder)
    timing = folder.path.with_suffix(".json")
    if not timing.is_file():
        begin = time.process_time()
        execute_run(spec, out)
        timing.write_text(json.dumps(time.process_time() - begin), encoding="utf-8")
    seconds, found = json.loads(timing.read_text(encoding="utf-8")), score(folder.read_history())
    assert found is not None
    cells = (
        f"{candidate.steps} x {candidate.rel_step}",
        f"{seconds:.0f}",
        f"{100 * found.average:.1f}",
        f"{100 * found.worst:.1f}",
        f"{100 * found.value:.1f} ± {100 * found.se:.1f}",
        f"{100 * found.value / (seconds / 60):.1f}",
    )
    return f"| {candidate.model} | {candidate.images} | {candidate.epochs} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("fairbench-out/micro-candidates"))
    out = parser.parse_args().out
    torch.set_num_threads(1)
    heads = [
        "network",
        "images",
        "epochs",
        "steps",
        "rate",
        "seconds",
        "average %",
        "worst class %",
        "score",
        "a minute",
    ]
    print(f"| {' | '.join(heads)} |")
    print(f"| --- |{' ---: |' * (len(heads) - 1)}", flush=True)
    for candidate in CANDIDATES:
        print(row(candidate, out), flush=True)


if __name__ == "__main__":
    main()
