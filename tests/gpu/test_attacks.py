"""Attacks on a CUDA device: recorded passes give the verdicts of eager ones, nothing leaks, and no step waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fairbench.attacks import Ball, ImageRNG, crafting, frozen, resolve
from fairbench.attacks.apgd import ascend
from fairbench.attacks.crafting import crafting_model, remembered_copies
from fairbench.attacks.losses import ce
from fairbench.attacks.pgd import climb
from fairbench.attacks.pool import Pool
from fairbench.attacks.square import square
from fairbench.copies import Graphed
from fairbench.evaluation.judge import attack_verdicts
from fairbench.models import build_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")]

IMAGES = 600
ATTACKS = [
    "apgd-ce",
    "apgd-t:targets=3",
    "fab-t:targets=3",
    "square:queries=300",
    "pgd-20:rel_step=0.25",
    "pgd-t-10:rel_step=0.25,targets=3",
    "autoattack-fast:steps=30,targets=3,queries=200",
]


def _network() -> nn.Module:
    """A network that tells colours apart, after a few steps of training."""
    torch.manual_seed(0)
    model = build_model("resnet-micro:width=32", num_classes=10, shape=(3, 32, 32)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(60):
        images, labels = _images(256, seed=step + 1)
        x = torch.from_numpy(images).cuda().permute(0, 3, 1, 2).float() / 255
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.from_numpy(labels).cuda()).backward()
        optimizer.step()
    return model.eval()


def _images(count: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng, labels = np.random.default_rng(seed), np.arange(count) % 10
    colours = np.random.default_rng(0).integers(60, 196, (10, 3))[labels] + 12 * rng.standard_normal((count, 3))
    noisy = colours[:, None, None] + rng.integers(-40, 41, (count, 32, 32, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return _network()


@pytest.mark.parametrize("text", ATTACKS)
def test_recorded_passes_give_the_verdicts_of_eager_ones(network, text, monkeypatch):
    images, labels = _images(IMAGES, seed=0)
    attack = resolve(text, Ball("Linf", 6 / 255))
    settings: Any = torch.backends
    before = settings.cudnn.conv.fp32_precision, settings.cuda.matmul.fp32_precision, settings.cudnn.benchmark
    found = attack_verdicts(network, images, labels, [attack], batch_size=200, device="cuda")
    after = settings.cudnn.conv.fp32_precision, settings.cuda.matmul.fp32_precision, settings.cudnn.benchmark
    assert after == before
    assert found.engine == "tf32"
    monkeypatch.setattr(crafting, "has_graphs", lambda device: False)
    expected = attack_verdicts(network, images, labels, [attack], batch_size=200, device="cuda")
    assert expected.engine == "torch"
    robust = found[attack.text] == labels, expected[attack.text] == labels
    print(f"{text}: robust accuracy {robust[0].mean():.4f}, eager {robust[1].mean():.4f}")
    assert np.mean(robust[0] == robust[1]) >= 0.995


def test_verdicts_see_no_tf32(network, monkeypatch):
    """The model itself runs with TF32 off while its copy crafts."""
    seen, images = set(), _images(64, seed=0)
    settings: Any = torch.backends
    handle = network.register_forward_hook(
        lambda *_: seen.add((settings.cudnn.conv.fp32_precision, settings.cuda.matmul.fp32_precision))
    )
    try:
        attack = resolve("apgd-ce-10", Ball("Linf", 6 / 255))
        attack_verdicts(network, *images, [attack], batch_size=64, device="cuda")
    finally:
        handle.remove()
    assert seen == {("ieee", "ieee")}


@contextmanager
def _no_sync() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_no_step_waits_for_the_device_between_two_releases(network, monkeypatch):
    images, labels = _images(200, seed=0)
    x = torch.from_numpy(images).cuda().permute(0, 3, 1, 2).float() / 255
    y, rng = torch.from_numpy(labels).cuda(), ImageRNG(0, torch.arange(200, device="cuda"))
    runs = {
        "apgd": lambda copy: ascend(copy, x, y, ce, eps=0.02, norm="Linf", steps=12, start=x),
        "square": lambda copy: square(copy, x, y, eps=0.02, queries=50, rng=rng),
        "pgd": lambda copy: climb(copy, x, y, x.clone(), eps=0.02, steps=12, step=0.005),
    }
    with frozen(network), remembered_copies():
        copy = crafting_model(network, x)
        assert isinstance(copy, Graphed)
        for run in runs.values():
            run(copy)  # records, and compiles kernels
        assert copy._recorded
        monkeypatch.setattr(Pool, "release", lambda self, rows: rows)
        monkeypatch.setattr(Pool, "finish", lambda self, x_adv: (x_adv, self.broken))
        for run in runs.values():
            run(copy)
            with _no_sync():
                run(copy)
    assert not copy._recorded
