"""Each attack of our ensemble beside pyautoattack's: from the same starts they break the same images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn

from fairbench.attacks import Ball, ImageRNG, frozen, resolve
from fairbench.attacks.apgd import ascend, random_start, ranked_targets
from fairbench.attacks.losses import ce, targeted_dlr
from fairbench.data.sources import load_test
from fairbench.models.zoo import open_model

EPS = 0.2
RESULTS = Path(__file__).parents[2] / "results" / "digits"


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """The committed SAT network of the digits suite, and 100 images that it classifies correctly."""
    model = open_model(min(RESULTS.glob("sat/*/best.safetensors")))
    split, _ = load_test("digits")
    x, y = torch.from_numpy(split.images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(split.labels)
    with torch.no_grad():
        correct = (model(x).argmax(1) == y).nonzero().squeeze(1)[:100]
    return model, x[correct].contiguous(), y[correct]


@pytest.mark.parametrize("target", [None, 0, 3])
def test_apgd_breaks_the_same_images_from_the_same_start(
    digits: tuple[nn.Module, Tensor, Tensor], target: int | None
) -> None:
    model, x, y = digits
    settings = {"n_iter": 100, "norm": "Linf", "eps": EPS, "device": "cpu"}
    with frozen(model):
        start = random_start(x, EPS, "Linf", ImageRNG(0, torch.arange(len(x))), restart=0)
        if target is None:
            peer, loss, aim = APGDAttack(model, loss="ce", **settings), ce, y
        else:
            peer, loss = APGDAttack_targeted(model, **settings), targeted_dlr
            peer.y_target = ranked_targets(model, x, y)[:, target]
            aim = torch.stack((y, peer.y_target), 1)
        peer.init_hyperparam(x)
        theirs = peer.attack_single_run(x, y, x_init=start)[1] == 0
        ours = ascend(model, x, aim, loss, eps=EPS, norm="Linf", steps=100, start=start)[1]
    assert int(theirs.sum()) >= 5
    # rounding may turn one image around
    assert int((ours != theirs).sum()) <= 1


def test_fab_breaks_the_same_images(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    """FAB-T draws no random number, so that there is nothing to give both."""
    model, x, y = digits
    rng, ball = ImageRNG(0, torch.arange(len(x))), Ball("Linf", EPS)
    with frozen(model):
        ours, theirs = (
            model(resolve(text, ball).craft(model, x, y, rng)).argmax(1) != y
            for text in ("fab-t-30", "autoattack:attacks=fab-t,steps=30")
        )
    assert int(theirs.sum()) >= 10
    assert int((ours != theirs).sum()) <= 1
