"""Print what each candidate for `cifar10-micro` scores on held-out images: `python docs/micro_candidates.py`.

A candidate is a network, a number of training images a class, and epochs that take about two processor minutes. Each is
trained by SAT with the suite's recipe at two learning rates, one seed, and scored as a trial of the tuning is: PGD-10
on 100 held-out images of every class after each of the last two epochs. No test image is read. A finished candidate is
not trained again (`--out`, by default `fairbench-out/micro-candidates`). Seconds are the processor's.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from fairbench.results.folder import RunFolder
from fairbench.run.pipeline import execute_run
from fairbench.run.plan import plan
from fairbench.run.tuning.scores import score
from fairbench.suites.spec import RunSpec, Trial
from fairbench.suites.suite import Suite

HELD_OUT, SEED, EPOCHS = 100, 1000, 2
RATES = (0.03, 0.1)
CANDIDATES = (
    ("small-cnn:width=8,batchnorm=true", 1000, 14),
    ("small-cnn:width=16,batchnorm=true", 1000, 6),
    ("resnet-micro:width=8", 1000, 8),
    ("resnet-micro", 500, 6),
)


def candidate(model: str, images: int, epochs: int, rate: float) -> RunSpec:
    """Return the run that trains one candidate, scored on held-out images and never evaluated."""
    suite = Suite.model_validate(
        {
            "name": "micro-candidates",
            "data": {
                "name": "cifar10-exact",
                "train_per_class": images + HELD_OUT,
                "validation_per_class": HELD_OUT,
            },
            "model": model,
            "threat": {"eps": 8 / 255},
            "recipe": {"epochs": epochs, "batch_size": 64, "lr": rate, "schedule": "onecycle", "weight_decay": 0.0005},
            "selection": {"rule": "last"},
            "methods": ["sat"],
            "seeds": [SEED],
        }
    )
    (spec,) = plan(suite)
    trial = Trial(attack=suite.selection.attack, epochs=EPOCHS)
    return spec.model_copy(update={"trial": trial, "until": "trained"})


def row(model: str, images: int, epochs: int, rate: float, out: Path) -> str:
    """Train one candidate, or read what it scored, and return its row of the table."""
    spec = candidate(model, images, epochs, rate)
    folder = RunFolder(out / spec.folder)
    timing = folder.path.with_suffix(".json")
    if not timing.is_file():
        begin = time.process_time()
        execute_run(spec, out)
        timing.write_text(json.dumps(time.process_time() - begin), encoding="utf-8")
    seconds, found = json.loads(timing.read_text(encoding="utf-8")), score(folder.read_history())
    assert found is not None
    cells = (
        f"{seconds:.0f}",
        f"{100 * found.average:.1f}",
        f"{100 * found.worst:.1f}",
        f"{100 * found.value:.1f} ± {100 * found.se:.1f}",
        f"{100 * found.value / (seconds / 60):.1f}",
    )
    return f"| {model} | {images} | {epochs} | {rate} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("fairbench-out/micro-candidates"))
    out = parser.parse_args().out
    torch.set_num_threads(1)
    heads = ["network", "images", "epochs", "rate", "seconds", "average %", "worst class %", "score", "a minute"]
    print(f"| {' | '.join(heads)} |")
    print(f"| --- |{' ---: |' * (len(heads) - 1)}", flush=True)
    for model, images, epochs in CANDIDATES:
        for rate in RATES:
            print(row(model, images, epochs, rate, out), flush=True)


if __name__ == "__main__":
    main()
