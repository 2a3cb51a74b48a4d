"""What the benchmarks of attacks measure on: a model, the test images it is attacked on, and a radius."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fairbench.data.sources import load_test
from fairbench.models.opening import open_model

RESULTS = Path(__file__).parents[2] / "results"


class Subject(NamedTuple):
    """A network, images float32 [N,C,H,W] in [0,1] with labels int64 [N], and the radius of the Linf ball."""

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float


@pytest.fixture(scope="module")
def threads() -> Iterator[int]:
    """One thread, or FAIRBENCH_BENCHMARK_THREADS, while the module's benchmarks run."""
    before, wanted = torch.get_num_threads(), int(os.environ.get("FAIRBENCH_BENCHMARK_THREADS", "1"))
    torch.set_num_threads(wanted)
    yield wanted
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def open_subject() -> Callable[..., Subject]:
    """Return `open(model, data, eps, images)`: a checkpoint, or a run's folder below results/, and the first images.

    FAIRBENCH_BENCHMARK_MODEL, _DATA (a name, npz:... or the path of an .npz), _EPS and _IMAGES win over the arguments.
    """

    def choose(model: str, data: str, eps: float, images: int) -> Subject:
        chosen = os.environ.get("FAIRBENCH_BENCHMARK_MODEL") or str(min(RESULTS.glob(f"{model}/*/best.safetensors")))
        named = os.environ.get("FAIRBENCH_BENCHMARK_DATA", data)
        split, _ = load_test(f"npz:{named}" if Path(named).is_file() else named)
        wanted = int(os.environ.get("FAIRBENCH_BENCHMARK_IMAGES", images))
        x = torch.from_numpy(split.images[:wanted]).permute(0, 3, 1, 2).float().div(255).contiguous()
        radius = float(os.environ.get("FAIRBENCH_BENCHMARK_EPS", eps))
        return Subject(open_model(chosen), x, torch.from_numpy(split.labels[:wanted]), radius)

    return choose
