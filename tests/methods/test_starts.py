"""The start of each method's attack, and whether it is clipped to [0,1] as in its script."""

from __future__ import annotations

import pytest
import torch

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.data.batch import Batch
from fairbench.method.composition import resolve_method

UNIFORM = {
    "sat": True,
    "sat_train_mode": True,
    "cfa_sat": True,
    "sat_awp": True,
    "faal": True,
    "ham": True,
    "ard": False,
    "iad": False,
    "iad2": False,
    "fair_ard": False,
    "fair_iad": False,
}
GAUSSIAN = {
    "cfa_trades": True,
    "trades": False,
    "mart": False,
    "dafa": False,
    "wat": False,
    "rslad": False,
    "absld": False,
    "faal_trades": False,
    "trades_awp": False,
}


def _start(name: str) -> tuple[torch.Tensor, float]:
    """Starts from black images, and epsilon."""
    rehearsal = Rehearsal(resolve_method(name))
    batch = rehearsal.batches[0]
    black = Batch(torch.zeros_like(batch.x), batch.y, batch.index)
    return rehearsal.method.start(black), rehearsal.context.threat.eps


@pytest.mark.parametrize(("name", "clipped"), UNIFORM.items())
def test_uniform_starts_from_black_images(name: str, clipped: bool):
    start, eps = _start(name)
    assert float(start.max()) == pytest.approx(eps, rel=0.01)
    assert float(start.min()) == (0 if clipped else pytest.approx(-eps, rel=0.01))
    assert float((start == 0).double().mean()) == pytest.approx(0.5 if clipped else 0.0, abs=0.05)


@pytest.mark.parametrize(("name", "clipped"), GAUSSIAN.items())
def test_gaussian_starts_from_black_images(name: str, clipped: bool):
    start, _ = _start(name)
    assert float(start.max()) < 0.006
    assert float(start.min()) == 0 if clipped else float(start.min()) < -0.002
    assert float(start.clamp(min=0).square().mean()) == pytest.approx(0.5e-6, rel=0.2)
