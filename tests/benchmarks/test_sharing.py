"""Images per second of several runs that share one GPU, with and without MPS.

`pytest tests/benchmarks/test_sharing.py -m slow -s` trains 1, 3 and 6 runs of SAT side by side (resnet-micro:width=32,
bf16, batches of 512, PGD-10, 49,000 made images of CIFAR-10's shape) as `fairbench run --jobs` does. It prints three
rates of all runs together: after each run's first epoch, in training, and from start to end with the start of the
processes. FAIRBENCH_BENCHMARK_EPOCHS is the length of a run, 2 by default. FAIRBENCH_BENCHMARK_TINY=1 runs the same
steps on a CPU with a tiny network, to test this file.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from fairbench.results.folder import RunFolder
from fairbench.run.benchmark import prepare_plan
from fairbench.run.launch import LogLines, launch_local
from fairbench.run.launch.mps import CONTROL, OPT_OUT
from fairbench.run.launch.progress import RunView
from fairbench.suites.spec import RunSpec

TINY = os.environ.get("FAIRBENCH_BENCHMARK_TINY") == "1"
EPOCHS = int(os.environ.get("FAIRBENCH_BENCHMARK_EPOCHS", "2"))
TARGET, RUNS = 100_000, 6
PER_CLASS, HELD_OUT = (5_000, 50) if not TINY else (20, 5)
MODEL, PRECISION = ("resnet-micro:width=32", "bf16") if not TINY else ("resnet-micro:width=4", "float32")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (TINY or torch.cuda.is_available()), reason="processes that share a GPU need one"),
]


class Rates(NamedTuple):
    """Images per second of all runs together."""

    after_first_epoch: float
    in_training: float
    from_start_to_end: float


class _Times(LogLines):
    """The time of each run's last event of each epoch, and the lines that were said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.rows: list[_Row] = []

    def start(self, name: str) -> RunView:
        self.rows.append(_Row(self.said))
        return self.rows[-1]

    def say(self, text: str) -> None:
        self.said.append(text)


class _Row:
    def __init__(self, said: list[str]) -> None:
        self._said, self.epochs = said, dict[int, float]()

    def update(self, stage: str, done: int, _total: int, _note: str) -> None:
        if stage == "train":
            self.epochs[done] = time.monotonic()

    def say(self, text: str) -> None:
        self._said.append(text)

    def finish(self, _outcome: str) -> None:
        pass


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a dataset of made images: a colour for each class, and noise."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, per_class in (("train", PER_CLASS), ("test", 10)):
        labels = np.arange(10 * per_class) % 10
        images = rng.integers(0, 80, (len(labels), 32, 32, 3), dtype=np.uint8)
        images += (17 * labels.astype(np.uint8))[:, None, None, None]
        np.savez(folder / f"{split}.npz", images=images, labels=labels)
    return f"npz:{folder / 'train.npz'},{folder / 'test.npz'}"


def _plan(data: str, runs: int, root: Path) -> list[RunSpec]:
    changes: dict[str, Any] = {
        "data.name": data,
        "model": MODEL,
        "recipe.epochs": EPOCHS,
        "recipe.precision": PRECISION,
    }
    changes |= {"data.validation_per_class": HELD_OUT, "data.method_per_class": HELD_OUT}
    changes |= {"recipe.batch_size": 32} if TINY else {}
    specs = prepare_plan("cifar10-small", methods=["sat"], seeds=list(range(runs)), overrides=changes, root=root)
    return [spec.model_copy(update={"until": "trained"}) for spec in specs]


def _measure(specs: list[RunSpec], results: Path) -> tuple[Rates, list[str], list[dict[str, Any]]]:
    view, begin = _Times(), time.monotonic()
    launch_local(specs, results, jobs=len(specs), view=view)
    wall = time.monotonic() - begin
    images = 10 * (PER_CLASS - 2 * HELD_OUT)
    costs = [json.loads(RunFolder(results / spec.folder).run.read_text())["cost"] for spec in specs]
    later = sum(images * (EPOCHS - 1) / (row.epochs[EPOCHS] - row.epochs[1]) for row in view.rows)
    trained = sum(images * EPOCHS / cost["train_seconds"] for cost in costs)
    return Rates(later, trained, len(specs) * images * EPOCHS / wall), view.said, costs


@pytest.mark.parametrize(("runs", "mps"), [(RUNS, True), (RUNS, False), (1, False), (3, True), (3, False)])
def test_sharing(data: str, runs: int, mps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Print the rates; those of six runs also against the target of 100,000 images per second."""
    if mps and not (TINY or shutil.which(CONTROL)):
        pytest.skip(f"{CONTROL} is not installed")
    monkeypatch.setenv(OPT_OUT, "1" if mps else "0")
    used = [2, 1][runs == 1] if TINY else runs
    rates, said, costs = _measure(_plan(data, used, tmp_path), tmp_path / "results")
    modes = ", ".join(sorted({cost["acceleration"] for cost in costs}))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"\n{device}, {used} runs of {MODEL}, {'with' if mps else 'without'} MPS, mode {modes}: images/s in all")
    for name, rate in rates._asdict().items():
        verdict = f", target {TARGET:,}: {'met' if rate >= TARGET else 'NOT met'}" if runs == RUNS else ""
        print(f"  {name.replace('_', ' '):<20}{rate:>10,.0f}{verdict}")
    for line in said:
        print(f"  {line}")
    assert len(costs) == used
    assert min(rates) > 0
