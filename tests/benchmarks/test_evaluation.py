"""`fairbench.evaluate` as it is by default, with and without flags, beside torchattacks: PGD-20 in one process.

Run with `pytest tests/benchmarks/test_evaluation.py -m slow -s`; see README.md.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from subjects import SUBJECTS as NETWORKS
from subjects import cnn_a
from torch import Tensor, nn

import fairbench

torchattacks = pytest.importorskip("torchattacks", reason="the peer of this benchmark: pip install -e '.[bench]'")

ROUNDS = int(os.environ.get("FAIRBENCH_BENCHMARK_ROUNDS", "5"))
SUBJECTS = ["chosen"] if "FAIRBENCH_BENCHMARK_MODEL" in os.environ else ["CNN-A", "digits/sat", "ResNet-18"]
# How many times as fast as torchattacks, with flags and without.
TARGETS = {"CNN-A": (1.5, 2.5), "digits/sat": (1.5, 1.5), "ResNet-18": (1.5, 1.5), "chosen": (1.5, 1.5)}
RADIUS = 8 / 255
# An image counts as broken by any iterate, and torchattacks looks at the last one alone.
WEAKER = 0.005

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("threads")]


class Case(NamedTuple):
    """A model, images [N,C,H,W] in [0,1] with labels int64 [N], a radius, and the images of a batch."""

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    batch: int


def _cnn_a() -> Case:
    """1,000 images for CNN-A, of FAIRBENCH_BENCHMARK_DATA at 4/255, else random ones at a radius that half survive."""
    model, data = cnn_a(), os.environ.get("FAIRBENCH_BENCHMARK_DATA")
    if data is None:
        x = torch.rand(1000, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return Case(model, x, model(x).argmax(1), 0.5 / 255, 250)
    from fairbench.data.sources import load_test

    split, _ = load_test(f"npz:{data}" if Path(data).is_file() else data)
    x = torch.from_numpy(split.images[:1000]).permute(0, 3, 1, 2).float().div(255).contiguous()
    return Case(model, x, torch.from_numpy(split.labels[:1000]), 4 / 255, 250)


def _resnet18() -> Case:
    """FAIRBENCH_BENCHMARK_IMAGES random images, 16 by default, for an untrained ResNet-18, of which none breaks.

    The flags look at every image where there are at most 100, so that on few images they cost more than the evaluation.
    """
    model, shape, batch = NETWORKS["resnet18"]()
    count = int(os.environ.get("FAIRBENCH_BENCHMARK_IMAGES", "16"))
    x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return Case(model, x, model(x).argmax(1), RADIUS, batch)


def _case(open_subject: Callable[..., Any], name: str) -> Case:
    if name == "ResNet-18":
        return _resnet18()
    if name == "CNN-A":
        return _cnn_a()
    model, x, y, eps = open_subject(name, "digits", 0.2, 500)
    return Case(model, x, y, eps, int(os.environ.get("FAIRBENCH_BENCHMARK_BATCH", "250")))


def _torchattacks(case: Case) -> float:
    torch.manual_seed(0)  # of its random starts
    attack = torchattacks.PGD(case.model, eps=case.eps, alpha=case.eps / 4, steps=20)
    parts = zip(case.x.split(case.batch), case.y.split(case.batch), strict=True)
    found = [(attack(x, y), y) for x, y in parts]
    with torch.no_grad():
        return statistics.fmean(float(case.model(x).argmax(1).eq(y).float().mean()) for x, y in found)


def _ours(case: Case, *, flags: bool) -> float:
    asked = {"attacks": ["pgd-20:rel_step=0.25"], "eps": case.eps, "batch_size": case.batch, "flags": flags}
    return float(fairbench.evaluate(case.model, (case.x, case.y), **asked).average)


@pytest.mark.parametrize("name", SUBJECTS)
def test_evaluation(benchmark: BenchmarkFixture, open_subject: Callable[..., Any], name: str) -> None:
    """Print medians of processor seconds, taken in turns, and the ratios to torchattacks."""
    case = _case(open_subject, name)
    ways: dict[str, Callable[[], float]] = {
        "torchattacks": lambda: _torchattacks(case),
        "with flags": lambda: _ours(case, flags=True),
        "without flags": lambda: _ours(case, flags=False),
    }
    robust = dict.fromkeys(ways, 0.0)

    def one(way: str) -> float:
        start = time.process_time()
        robust[way] = ways[way]()
        return time.process_time() - start

    def measure() -> dict[str, float]:
        rounds = [{way: one(way) for way in ways} for _ in range(ROUNDS + 1)]  # the first one warms up
        return {way: statistics.median(each[way] for each in rounds[1:]) for way in ways}

    taken: dict[str, float] = benchmark.pedantic(measure, rounds=1, iterations=1)
    print(f"\n{name}: {len(case.y)} images, eps {case.eps:.4f}, processor seconds, medians of {ROUNDS}")
    for way, seconds in taken.items():
        print(f"  {way}: {seconds:.2f} s, {taken['torchattacks'] / seconds:.2f} x, robust accuracy {robust[way]:.4f}")
    for way, target in zip(("with flags", "without flags"), TARGETS[name], strict=True):
        ratio = taken["torchattacks"] / taken[way]
        print(f"  target {target} {way}: {'met' if ratio >= target else 'NOT met'}")
        assert robust[way] <= robust["torchattacks"] + WEAKER
        assert ratio >= 1.0
