"""Engines that craft adversarial images: verdicts are the plain model's, and the engines agree on nearly all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from compilers import needs_compiler
from small_net import watched
from torch import Tensor, nn

from fairbench.attacks import Ball, crafting_engine, remembered_copies, resolve
from fairbench.attacks.random import ImageRNG
from fairbench.copies import Engine
from fairbench.cost import CostMeter
from fairbench.evaluation.evaluate import evaluate
from fairbench.evaluation.judge import attack_verdicts
from fairbench.models import build_model

ATTACKS = ["pgd-10:rel_step=0.25", "cw-10:rel_step=0.25", "mim-10:rel_step=0.25", "apgd-ce-10", "square:queries=50"]
PGD = "pgd-10:rel_step=0.25"
SIDE, EPS = 12, 0.03


def _trained(spec: str, *, normalised: bool = True) -> tuple[nn.Module, Tensor, Tensor]:
    """A network that tells three kinds of noisy stripes apart, images and labels: some break at EPS, some do not."""
    torch.manual_seed(0)
    y = torch.arange(90) % 3
    pattern = torch.stack([torch.sin(torch.arange(SIDE) * (0.5 + k)).outer(torch.ones(SIDE)) for k in range(3)])
    x = (0.5 + 0.06 * pattern[y].unsqueeze(1) + 0.1 * torch.randn(90, 1, SIDE, SIDE)).clamp(0, 1)
    front = {"mean": [0.5], "std": [0.2]} if normalised else {}
    model = build_model(spec, num_classes=3, shape=(1, SIDE, SIDE), **front)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(x), y).backward()
        optimizer.step()
    return model.eval(), x, y


@pytest.mark.parametrize(
    ("spec", "engine", "name"),
    [
        pytest.param("small-cnn:width=4,batchnorm=true", "c", "c", marks=needs_compiler),
        pytest.param("resnet-micro:width=4", "c", "c", marks=needs_compiler),
        ("small-cnn:width=4,batchnorm=true", "torch", "torch"),
        ("resnet-micro:width=4", "torch", "torch"),
    ],
)
def test_verdicts_are_the_plain_models_and_engines_agree(spec: str, engine: str, name: str) -> None:
    model, x, y = _trained(spec)
    for text in ATTACKS if spec.startswith("small") else ATTACKS[:1]:
        made: list[Tensor] = []
        found = attack_verdicts(model, x, y, [watched(resolve(text, Ball("Linf", EPS)), made)], engine=engine)  # type: ignore[arg-type]
        with torch.no_grad():
            wanted = model(torch.cat(made)).argmax(1).numpy()
        assert found.engine == name
        assert np.array_equal(found[text], wanted), text  # an image is broken where the model itself says so
        plain = attack_verdicts(model, x, y, [resolve(text, Ball("Linf", EPS))], engine="plain")
        assert plain.engine == "plain"
        broken, reference = (np.asarray(each[text] != y.numpy()) for each in (found, plain))
        assert 0 < reference.mean() < 1, text
        assert np.mean(broken == reference) >= 0.98, text


def test_bfloat16_believes_no_break_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from fairbench.attacks import copying

    monkeypatch.setattr(copying, "multiplies_bf16", lambda device: True)
    monkeypatch.setattr(copying, "_LARGE", 0)
    monkeypatch.setattr(copying, "_HALF_TOLERANCE", 1.0)
    model, x, y = _trained("small-cnn:width=4,batchnorm=true")
    made: list[Tensor] = []
    found = attack_verdicts(model, x, y, [watched(resolve(PGD, Ball("Linf", EPS)), made)], engine="torch")
    with torch.no_grad():
        wanted = model(torch.cat(made)).argmax(1).numpy()
    assert found.engine == "bfloat16"
    assert np.array_equal(found[PGD], wanted)
    plain = attack_verdicts(model, x, y, [resolve(PGD, Ball("Linf", EPS))], engine="plain")
    assert np.mean((found[PGD] != y.numpy()) == (plain[PGD] != y.numpy())) >= 0.95


def _small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))


def _convolutions(width: int, groups: int = 1) -> nn.Module:
    """Two convolutions on 16 x 16 pixels, the second with `width * width / groups` weights a tap."""
    second = nn.Conv2d(width, width, 3, padding=1, groups=groups)
    return nn.Sequential(nn.Conv2d(3, width, 1), second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


class _Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = _small()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x if x.mean() > 0.5 else 1 - x)


@pytest.mark.parametrize(
    ("build", "engine", "threads", "name"),
    [
        pytest.param(_small, "c", 1, "c", marks=needs_compiler),
        pytest.param(partial(_convolutions, 40), "c", 1, "c", marks=needs_compiler),  # 3.4 M multiplications
        (partial(_convolutions, 40), "c", 2, "torch"),
        (partial(_convolutions, 80), "c", 1, "torch"),  # 13.3 M multiplications
        (partial(_convolutions, 240), "c", 1, "bfloat16"),  # 0.23 G operations
        (partial(_convolutions, 480, groups=2), "c", 1, "torch"),
        (_small, "torch", 1, "torch"),
        (_small, "plain", 1, "plain"),
        (_Untraceable, "c", 1, "plain"),
    ],
)
def test_structure_device_and_threads_choose_the_engine(
    monkeypatch: pytest.MonkeyPatch, build: Callable[[], nn.Module], engine: Engine, threads: int, name: str
) -> None:
    monkeypatch.setattr("fairbench.attacks.copying.multiplies_bf16", lambda device: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    with remembered_copies(engine):
        assert crafting_engine(build().eval().requires_grad_(False), torch.rand(2, 3, 16, 16)) == name


def test_verdicts_do_not_depend_on_how_long_anything_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine more time passes. No clock is read, so that clocks that raise change nothing."""
    import time

    model, x, y = _trained("small-cnn:width=4")
    idle = attack_verdicts(model, x, y, [resolve(PGD, Ball("Linf", EPS))])

    def broken() -> float:
        raise AssertionError("a clock was read")

    for clock in ("time", "perf_counter", "process_time", "monotonic"):
        monkeypatch.setattr(time, clock, broken)
    busy = attack_verdicts(model, x, y, [resolve(PGD, Ball("Linf", EPS))])
    monkeypatch.undo()
    assert busy.engine == idle.engine
    assert np.array_equal(busy[PGD], idle[PGD])


def test_words_win_over_the_rule() -> None:
    model, x, y = _trained("small-cnn:width=4")
    model.requires_grad_(False)
    passes = []
    for text in (f"{PGD},fast=true", f"{PGD},fast=false", PGD):
        with remembered_copies("torch"):
            meter, made = CostMeter(), list[int]()
            handle = model.register_forward_hook(lambda *_, made=made: made.append(1))
            with meter.measure(model):
                resolve(text, Ball("Linf", EPS)).craft(model, x, y, ImageRNG(0, torch.arange(len(y))))
            handle.remove()
            passes.append((len(made), meter.backwards > 0))
    assert passes[0] == passes[2]  # what the copy does counts too
    assert passes[1][0] > passes[0][0]
    assert all(counted for _, counted in passes)


def test_a_report_names_its_engine_and_the_images_that_were_checked() -> None:
    model, x, y = _trained("small-cnn:width=4")
    report = evaluate(model, (x, y), attacks=["clean", PGD], eps=EPS, engine="torch")
    assert (report.verdicts.engine, report.flagged) == ("torch", 90)
    bare = evaluate(model, (x, y), attacks=["clean"], eps=EPS, flags=False)
    assert (bare.verdicts.engine, bare.flagged) == ("plain", 0)


def test_outside_an_evaluation_the_model_itself_is_attacked() -> None:
    model, x, _ = _trained("small-cnn:width=4")
    assert crafting_engine(model, x) == "plain"
    with remembered_copies("torch"):
        assert crafting_engine(model, x) == "torch"
        with remembered_copies("plain"):
            assert crafting_engine(model, x) == "plain"


# Evaluates on a machine that is idle, or made busy for as long as the evaluation takes.
EVALUATES = """
import os, subprocess, sys, torch, fairbench
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3)).eval()
x = torch.rand(60, 1, 12, 12)
spin = [sys.executable, "-c", "print(flush=True)\\nwhile True: pass"]
count = (os.cpu_count() or 1) if sys.argv[1] == "busy" else 0
spinning = [subprocess.Popen(spin, stdout=subprocess.PIPE) for _ in range(count)]
try:
    assert all(process.stdout.readline() for process in spinning)  # they have begun
    found = fairbench.evaluate(net, (x, net(x).argmax(1)), attacks=["pgd-20"], eps=0.05, flags=False).verdicts
    assert all(process.poll() is None for process in spinning)
finally:
    for process in spinning:
        process.kill()
        process.wait()
print(found.engine, found["pgd-20"].tolist())
"""


def test_a_busy_machine_gives_the_verdicts_of_an_idle_one() -> None:
    idle, busy = (
        subprocess.run([sys.executable, "-c", EVALUATES, load], capture_output=True, text=True, check=True).stdout
        for load in ("idle", "busy")
    )
    assert busy == idle
    engine, _, verdicts = idle.partition(" ")
    assert engine in {"c", "torch"}
    assert len(set(json.loads(verdicts))) > 1
