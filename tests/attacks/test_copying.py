"""Attacks on a copy whose passes are recorded, by a stand-in for CUDA graphs, find what they find without."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from replays import rerun
from torch import Tensor, nn

from fairbench.attacks import Ball, resolve
from fairbench.attacks.crafting import crafting_model, remembered_copies
from fairbench.copies import Graphed
from fairbench.evaluation.judge import attack_verdicts
from fairbench.models import build_model

ATTACKS = [
    "apgd-ce-20",
    "apgd-t-20:targets=3",
    "fab-t-20:targets=3",
    "square:queries=60",
    "pgd-20:rel_step=0.25",
    "pgd-t-10:rel_step=0.25",
    "autoattack-fast:steps=15,targets=2,queries=20",
]


def _subject() -> tuple[nn.Module, Tensor, NDArray[np.int64]]:
    """A small network and 70 images with the classes that it predicts."""
    torch.manual_seed(0)
    model, x = build_model("small-cnn:width=4,batchnorm=true", num_classes=4, shape=(3, 8, 8)), torch.rand(70, 3, 8, 8)
    model.train()(x)
    with torch.no_grad():
        return model.eval(), x, model(x).argmax(1).numpy()


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairbench.copies.graphed.record_passes", rerun)
    monkeypatch.setattr(sys.modules["fairbench.attacks.crafting"], "has_graphs", lambda device: True)
    for name in ("pgd", "targeted"):
        monkeypatch.setattr(sys.modules[f"fairbench.attacks.{name}"], "spacing", lambda device: 10)


@pytest.mark.parametrize("text", ATTACKS)
def test_verdicts_are_those_of_eager_copies(text: str, request: pytest.FixtureRequest) -> None:
    model, x, y = _subject()
    attack = resolve(text, Ball("Linf", 0.02))
    plain = attack_verdicts(model, x, y, [attack], engine="torch")
    request.getfixturevalue("as_on_cuda")
    found = attack_verdicts(model, x, y, [attack], engine="torch")
    assert (plain.engine, found.engine) == ("torch", "tf32")
    assert 0 < np.mean(plain[text] == y) < 1
    assert np.mean((plain[text] == y) == (found[text] == y)) >= 0.985


def test_leaving_later_changes_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    from fairbench.attacks import ImageRNG

    model, x, y = _subject()
    attack, rng = resolve("pgd-15:rel_step=0.25", Ball("Linf", 0.02)), ImageRNG(0, torch.arange(len(x)))
    wanted = attack.craft(model, x, torch.from_numpy(y), rng)
    monkeypatch.setattr(sys.modules["fairbench.attacks.pgd"], "spacing", lambda device: 10)
    torch.testing.assert_close(attack.craft(model, x, torch.from_numpy(y), rng), wanted, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("as_on_cuda")
def test_recorded_passes_are_freed_with_the_evaluation() -> None:
    model, x, _ = _subject()
    with remembered_copies("torch"), torch.no_grad():
        copy = crafting_model(model.requires_grad_(False), x)
        assert isinstance(copy, Graphed)
        for _ in range(8):
            copy(x)
        assert copy._recorded
    assert not copy._recorded
