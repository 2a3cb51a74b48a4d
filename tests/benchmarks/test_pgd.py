"""PGD-20 of fairbench, of torchattacks, and as papers' scripts write it: images per second, same settings, one process.

Run with `pytest tests/benchmarks/test_pgd.py -m slow -s`; see README.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.nn import functional as F

from fairbench.attacks import ImageRNG, frozen, pgd, remembered_copies
from fairbench.models.architectures import build_model

torchattacks = pytest.importorskip("torchattacks", reason="the peer of this benchmark: pip install -e '.[bench]'")

MODELS = ["chosen"] if "FAIRBENCH_BENCHMARK_MODEL" in os.environ else ["resnet18"]
STEPS, BATCH = 20, int(os.environ.get("FAIRBENCH_BENCHMARK_BATCH", "32"))
PEERS = {"torchattacks": 2.0, "plain loop": 2.5}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("threads")]


class Measured(NamedTuple):
    """Images, seconds on the clock and on the processor, and where the label survived, bool [N]."""

    elapsed: float
    processor: float
    robust: Tensor


_measured: dict[tuple[str, str], Measured] = {}


def _subject(open_subject: Callable[..., Any], name: str) -> tuple[nn.Module, Tensor, Tensor, float]:
    """A trained model, or an untrained ResNet-18 that no perturbation this small can break: for the rate alone."""
    if name != "resnet18":
        model, x, y, eps = open_subject(name, "digits", 0.2, 500)
        return model, x, y, eps
    torch.manual_seed(0)
    model = build_model("resnet18", num_classes=10, shape=(3, 32, 32)).eval()
    x = torch.rand(2 * BATCH, 3, 32, 32)
    with torch.no_grad():
        return model, x, model(x).argmax(1), 1e-6


def _plain_loop(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, step: float) -> Tensor:
    """PGD as in the official scripts: backward() through the whole network, the gradients of its weights included."""
    x_adv = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(STEPS):
        x_adv.requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(model(x_adv), y)
        loss.backward()  # type: ignore[no-untyped-call]
        assert x_adv.grad is not None
        x_adv = x_adv.detach() + step * x_adv.grad.sign()
        x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)
    return x_adv.detach()


def _torchattacks(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, step: float) -> Tensor:
    found: Tensor = torchattacks.PGD(model, eps=eps, alpha=step, steps=STEPS, random_start=True)(x, y)
    return found


def _ours(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, step: float, **settings: Any) -> Tensor:
    rng = ImageRNG(0, torch.arange(len(x)))
    with frozen(model):
        return pgd(model, x, y, eps=eps, steps=STEPS, step=step, rng=rng, **settings)


ATTACKS: dict[str, Callable[..., Tensor]] = {
    "plain loop": _plain_loop,
    "torchattacks": _torchattacks,
    "fairbench, all samples kept": partial(_ours, iterate="last", fast=True),
    "fairbench, broken samples dropped": partial(_ours, fast=True),
    "fairbench, the model itself": _ours,
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("attack", list(ATTACKS))
def test_pgd(benchmark: BenchmarkFixture, open_subject: Callable[..., Any], model: str, attack: str) -> None:
    network, x, y, eps = _subject(open_subject, model)

    def run() -> Tensor:
        with remembered_copies():
            parts = [
                ATTACKS[attack](network, images, labels, eps=eps, step=eps / 4)
                for images, labels in zip(x.split(BATCH), y.split(BATCH), strict=True)
            ]
        return torch.cat(parts)

    ATTACKS["plain loop"](network, x[:2], y[:2], eps=eps, step=eps / 4)  # libraries prepare their kernels
    before = time.process_time()
    x_adv = benchmark.pedantic(run, rounds=1, iterations=1)
    spent = time.process_time() - before
    with torch.no_grad():
        robust = network(x_adv).argmax(1) == y
    _measured[model, attack] = Measured(benchmark.stats.stats.mean, spent, robust)
    assert float((x_adv - x).abs().max()) <= eps + 1e-6


@pytest.mark.parametrize("model", MODELS)
def test_rates(model: str) -> None:
    """Print images per second; with broken samples dropped, PGD-20 outruns both peers and breaks as many images."""
    found = {attack: _measured[model, attack] for attack in ATTACKS}
    images = len(found["plain loop"].robust)
    print(f"\n{model}: {images} images in batches of {BATCH}, {STEPS} steps of eps / 4")
    for attack, (elapsed, processor, robust) in found.items():
        ratios = ", ".join(f"{found[peer].processor / processor:.2f} x {peer}" for peer in PEERS)
        print(
            f"  {attack}: {images / processor:.1f} images per processor second ({processor:.1f} s, elapsed "
            f"{elapsed:.1f} s), {ratios}, robust accuracy {float(robust.float().mean()):.4f}"
        )
    ours, kept = found["fairbench, broken samples dropped"], found["fairbench, all samples kept"]
    for peer, ratio in PEERS.items():
        theirs = int(found[peer].robust.sum())
        assert abs(int(kept.robust.sum()) - theirs) <= max(0.005 * images, 2)
        # an image counts as broken by any iterate, and the peers look at the last one alone
        assert int(ours.robust.sum()) <= theirs + max(0.005 * images, 1)
        if float(ours.robust.float().mean()) <= 0.6:
            assert found[peer].processor >= ratio * ours.processor
