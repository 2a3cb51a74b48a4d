"""Which engine pays for which network: a forward pass with the gradient for the images, by the model and by its copies.

The rule of `fairbench.copies.engine` is calibrated by what this prints. Run with
`pytest tests/benchmarks/test_engines.py -m slow -s`; see README.md.
"""

from __future__ import annotations

import os
import statistics
import time

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from subjects import SUBJECTS
from torch import Tensor, nn
from torch.nn import functional as F

from fairbench.attacks.gradient import frozen, logits_and_gradient
from fairbench.copies import HalfPrecision, Rewritten, folded

ROUNDS = int(os.environ.get("FAIRBENCH_BENCHMARK_ROUNDS", "5"))

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("threads")]


def _loss(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def _engines(model: nn.Module, x: Tensor) -> dict[str, nn.Module]:
    """The model and each of its copies, also those that the rule would not take."""
    network = folded(model)
    exact, native = Rewritten(network, x, native=False), Rewritten(network, x, limit=1 << 40)
    found: dict[str, nn.Module] = {"plain": model, "torch": exact, "bfloat16": HalfPrecision(network.traced, exact)}
    return found | ({} if native.chain is None else {"c": native})


@pytest.mark.parametrize("name", SUBJECTS)
def test_engines(benchmark: BenchmarkFixture, name: str) -> None:
    """Print processor milliseconds for a batch, in turns, as medians."""
    model, shape, batch = SUBJECTS[name]()
    x, y = torch.rand(batch, *shape), torch.arange(batch) % 10
    with frozen(model):
        engines = _engines(model, x)

        def once(network: nn.Module) -> float:
            start = time.process_time()
            logits_and_gradient(network, x, _loss, y)
            return 1e3 * (time.process_time() - start)

        def measure() -> dict[str, float]:
            rounds = [{engine: once(network) for engine, network in engines.items()} for _ in range(ROUNDS + 1)]
            return {engine: statistics.median(each[engine] for each in rounds[1:]) for engine in engines}

        taken: dict[str, float] = benchmark.pedantic(measure, rounds=1, iterations=1)
    chain = getattr(engines.get("c"), "chain", None)
    products = f"{chain.products / 1e6:.2f} M products" if chain is not None else "no chain"
    text = ", ".join(f"{engine} {each:.1f} ms ({taken['plain'] / each:.2f})" for engine, each in taken.items())
    print(f"\n{name}, {batch} images of {'x'.join(map(str, shape))}, {products}: {text}")
    assert min(taken.values()) > 0
