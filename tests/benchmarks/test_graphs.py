"""autoattack-fast on a CUDA device with recorded passes and without, on made images, against declared targets.

Run with `pytest tests/benchmarks/test_graphs.py -m slow -s`; see README.md. FAIRBENCH_BENCHMARK_IMAGES sets the number
of images. On a CPU it runs to its end with few images and a small budget, and measures nothing that has a target.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fairbench.attacks import Ball, crafting, resolve
from fairbench.evaluation import judge
from fairbench.evaluation.judge import attack_verdicts
from fairbench.losses import cross_entropy
from fairbench.models import build_model

ON = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CUDA = ON.type == "cuda"
WHOLE = 10_000
ATTACK = "autoattack-fast" if CUDA else "autoattack-fast:steps=2,targets=2,queries=4"
CANDIDATES = [level / 255 for level in ((1, 2, 4, 6, 8, 12, 16, 24, 32) if CUDA else (8,))]

pytestmark = pytest.mark.slow


class Case(NamedTuple):
    """An architecture, the images that are attacked, training steps, and the seconds wanted for `WHOLE` images."""

    spec: str
    images: int
    steps: int
    seconds: float


CASES = [
    Case("resnet-micro:width=32", 2000 if CUDA else 20, 200 if CUDA else 2, 60.0),
    Case("resnet18", 1000 if CUDA else 4, 100 if CUDA else 1, 600.0),
]


def _made(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise around a colour that is near its class's colour: images uint8 [N,32,32,3] and labels int64 [N]."""
    colours = torch.randint(60, 196, (10, 3), generator=torch.Generator().manual_seed(0))
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    centres = colours[labels] + 12.0 * torch.randn(count, 3, generator=drawn)
    noise = torch.randint(-40, 41, (count, 32, 32, 3), generator=drawn)
    return (centres[:, None, None] + noise).clamp(0, 255).to(torch.uint8), labels


def _trained(case: Case) -> nn.Module:
    """A network trained on made images moved by one step of 8/255 along the gradient's sign."""
    torch.manual_seed(0)
    model = build_model(case.spec, num_classes=10, shape=(3, 32, 32)).to(ON, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    size = 256 if CUDA else 10
    for step in range(case.steps):
        images, labels = _made(size, seed=step + 1)
        x, y = images.to(ON).permute(0, 3, 1, 2).float() / 255, labels.to(ON)
        start = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(model(start), y).sum(), start)
        optimizer.zero_grad()
        cross_entropy(model((x + 8 / 255 * gradient.sign()).clamp(0, 1)), y).mean().backward()
        optimizer.step()
    return model.eval()


def _robust(model: nn.Module, attack: str, eps: float, count: int) -> tuple[float, str]:
    """Return the share of images that keep their class under an attack, and the engine that crafted."""
    images, labels = _made(count, seed=0)
    chosen = resolve(attack, Ball("Linf", eps))
    found = attack_verdicts(model, images.numpy(), labels.numpy(), [chosen], batch_size=500, device=ON)
    return float((found[chosen.text] == labels.numpy()).mean()), found.engine


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)
def test_autoattack_fast(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Print seconds and images a second at the radius that about half of the images survive; a target is for the first
    way, which is what an evaluation does.
    """
    count = int(os.environ.get("FAIRBENCH_BENCHMARK_IMAGES", case.images))
    model = _trained(case)
    shares = {
        eps: _robust(model, "pgd-10:rel_step=0.25" if CUDA else "clean", eps, min(count, 500))[0] for eps in CANDIDATES
    }
    eps = min(CANDIDATES, key=lambda eps: abs(shares[eps] - 0.5))
    robust, seconds = dict[str, float](), dict[str, float]()
    where = torch.cuda.get_device_name() if CUDA else "a CPU, which has no graphs"
    print(f"\n{case.spec}: {count} made images, eps {255 * eps:.0f}/255, {ATTACK}, on {where}")
    for way in ("recorded", "operation by operation", "operation by operation, 500 at once") if CUDA else ("CPU",):
        if way.startswith("operation"):
            monkeypatch.setattr(crafting, "has_graphs", lambda device: False)
        if way.endswith("once"):
            monkeypatch.setattr(judge, "_TOGETHER", 1)
        start = time.perf_counter()
        robust[way], engine = _robust(model, ATTACK, eps, count)
        seconds[way] = time.perf_counter() - start
        print(
            f"  {way}: {seconds[way]:.1f} s, {count / seconds[way]:.0f} images/s, engine {engine}, "
            f"robust accuracy {robust[way]:.4f}"
        )
    first, *others = robust.values()
    assert all(abs(first - other) <= 0.01 for other in others)
    if CUDA:
        whole = seconds["recorded"] * WHOLE / count
        met = "met" if whole <= case.seconds else "NOT met"
        print(f"  target {WHOLE} images in {case.seconds:.0f} s: {whole:.0f} s at this rate, {met}")
