"""Train and evaluate one method of `cifar10-fast` on the GPU and write how long it took: `train_fast.py FOLDER`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from fairbench.data.sources import find_datasets
from fairbench.run import benchmark

METHOD = "sat"
ATTACKS = ["clean", "pgd-20", "autoattack-fast"]


def main(folder: Path) -> int:
    """Return 0 when the run is complete; a second call goes on where the first was stopped."""
    given = os.environ.get("FAIRBENCH_GPU_DATA")
    found = find_datasets().get("cifar10", "").startswith("found")
    name = given or ("cifar10" if found else made(folder))
    specs = benchmark.prepare_plan(
        "cifar10-fast",
        methods=[METHOD],
        overrides={"data.name": name, "evaluation.best": ATTACKS, "evaluation.last": ["clean"]},
        root=folder / "fast",
    )
    board = benchmark.execute_plan(specs, root=folder / "fast", jobs=1)
    records = [json.loads(path.read_text()) for path in sorted((folder / "fast").rglob("run.json"))]
    summary = [
        {
            "method": record["method"],
            "data": "made, for times only" if not given and not found else name,
            "cost": record["cost"],
            "evaluations": record["evaluations"],
            "metrics": record["metrics"],
        }
        for record in records
    ]
    (folder / "fast.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    print(f"{board.name}: {len(summary)} runs, training of the first {summary[0]['cost']['train_seconds']:.0f} s")
    return 0


def made(folder: Path) -> str:
    """Write images of the shape and number of CIFAR-10's: noise around a colour for each class."""
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 215, (10, 3))
    for split, count in (("train", 50_000), ("test", 10_000)):
        path = folder / f"{split}.npz"
        if not path.exists():
            labels = np.arange(count) % 10
            noise = rng.integers(-40, 41, (count, 32, 32, 3))
            images = np.clip(colours[labels][:, None, None] + noise, 0, 255).astype(np.uint8)
            np.savez(path, images=images, labels=labels)
    return f"npz:{folder / 'train.npz'},{folder / 'test.npz'}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
