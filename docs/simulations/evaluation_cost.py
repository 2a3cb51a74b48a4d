"""What an evaluation costs, and how that grows: processor seconds of one thread, for docs/performance.md.

    python docs/simulations/evaluation_cost.py

Untrained networks at a radius at which nothing breaks, so that no image leaves its batch early. The medians of ROUNDS
evaluations are printed, a column of ratios beside them, and where the time of one goes by the profiler.
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
import time
from typing import Any

import torch

import fairbench
from fairbench.models import build_model

ROUNDS = 3
EPS = 1e-4
BASE: dict[str, Any] = {"model": "small-cnn:width=16,batchnorm=true", "images": 500, "classes": 10, "attack": "pgd-20"}
GROWTH: dict[str, list[Any]] = {
    "images": [250, 500, 1000],
    "classes": [10, 100],
    "attack": ["fgsm", "pgd-10:rel_step=0.25", "pgd-20", "pgd-40", "cw-20", "apgd-ce-20", "square:queries=100"],
    "model": ["small-cnn:width=16,batchnorm=true", "small-cnn:width=32,batchnorm=true", "resnet-micro"],
}
PARTS = {
    "C code and what calls it": "chain.py",
    "projected steps": "reference.py",
    "the model's own passes": "victim.py",
}


def evaluated(*, model: str, images: int, classes: int, attack: str, flags: bool = False) -> None:
    """Evaluate an untrained network on random images of 8 x 8."""
    torch.manual_seed(0)
    network = build_model(model, num_classes=classes, shape=(1, 8, 8)).eval()
    x = torch.rand(images, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = network(x).argmax(1)
    fairbench.evaluate(network, (x, y), attacks=[attack], eps=EPS, flags=flags)


def seconds(**how: Any) -> float:
    """Return the median of processor seconds, after one evaluation that warms up."""
    taken = []
    for _ in range(ROUNDS + 1):
        start = time.process_time()
        evaluated(**how)
        taken.append(time.process_time() - start)
    return statistics.median(taken[1:])


def shares(**how: Any) -> dict[str, float]:
    """Return the share of one evaluation's time, on the clock, inside the functions of each file of PARTS."""
    profile = cProfile.Profile()
    profile.runcall(evaluated, **how)
    table: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    whole = max(entry[3] for entry in table.values())
    outermost = {
        name: sum(
            entry[3]
            for (file, _, _), entry in table.items()
            if file.endswith(f"/{part}") and not any(caller[0].endswith(f"/{part}") for caller in entry[4])
        )
        for name, part in PARTS.items()
    }
    return {name: spent / whole for name, spent in outermost.items()}


def main() -> None:
    """Print how the cost grows along each axis, and where it goes."""
    torch.set_num_threads(1)
    base = seconds(**BASE)
    print(f"{BASE}: {base:.3f} s; with flags {seconds(**BASE, flags=True):.3f} s")
    for axis, values in GROWTH.items():
        for value in values:
            taken = seconds(**{**BASE, axis: value})
            print(f"{axis:>8} {value!s:<36} {taken:7.3f} s {taken / base:6.2f} x")
    for name, share in shares(**BASE).items():
        print(f"{name}: {share:.0%} of the time")


if __name__ == "__main__":
    main()
