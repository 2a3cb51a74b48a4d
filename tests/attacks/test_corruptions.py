from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fairbench import evaluate
from fairbench.attacks import Ball, ImageRNG, resolve
from fairbench.errors import InvalidInput

NAMES = ["noise", "blur", "contrast", "brightness", "jpeg"]


class Unused(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("a corruption does not look at the model")


def _images(n: int, channels: int = 3) -> Tensor:
    coarse = torch.rand(n, channels, 4, 4, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, size=16, mode="bilinear")


def _corrupt(text: str, x: Tensor, index: Tensor | None = None) -> Tensor:
    attack = resolve(text, Ball("Linf", 0.0))
    assert attack.threat is None
    y = torch.zeros(len(x), dtype=torch.int64)
    return attack.craft(Unused(), x, y, ImageRNG(0, torch.arange(len(x)) if index is None else index))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_severities_go_further_and_stay_in_the_box(name: str, channels: int) -> None:
    x = _images(8, channels)
    made = [_corrupt(f"{name}:severity={severity}", x) for severity in (1, 2, 3)]
    away = [float((image - x).square().mean()) for image in made]
    assert 0 < away[0] < away[1] < away[2]
    assert all(image.shape == x.shape and image.min() >= 0 and image.max() <= 1 for image in made)
    assert torch.equal(_corrupt(name, x), made[1])


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_corrupted_alike_in_any_batch(name: str) -> None:
    x, index = _images(6), torch.tensor([4, 2])
    assert torch.allclose(_corrupt(name, x)[index], _corrupt(name, x[index], index), atol=1e-6)


def test_strengths_by_hand() -> None:
    x = torch.tensor([[0.2, 0.6], [0.4, 0.8]])[None, None]
    assert torch.allclose(_corrupt("brightness:severity=3", x), torch.tensor([[0.5, 0.9], [0.7, 1.0]]))
    assert torch.allclose(_corrupt("contrast:severity=2", x), torch.tensor([[0.38, 0.54], [0.46, 0.62]]))
    noise = _corrupt("noise:severity=1", torch.full((50, 1, 16, 16), 0.5)) - 0.5
    assert abs(float(noise.std()) - 0.04) < 0.001
    flat = torch.full((1, 1, 16, 16), 0.3)
    assert torch.allclose(_corrupt("blur:severity=3", flat), flat)


def test_jpeg_takes_the_nearest_grey_level() -> None:
    x = _images(8)
    assert torch.equal(_corrupt("jpeg", x), _corrupt("jpeg", (x * 255).round() / 255))


def test_blur_is_a_gaussian() -> None:
    x = torch.zeros(1, 1, 50, 50)
    x[0, 0, 25, 25] = 1.0
    weights = _corrupt("blur:severity=2", x)[0, 0]
    offsets = torch.arange(50) - 25.0
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5)
    # 4 percent of 50 pixels is a standard deviation of 2
    assert float((weights.sum(0) * offsets**2).sum()) ** 0.5 == pytest.approx(2.0, abs=0.05)


def test_the_evaluator_takes_them_whatever_the_ball() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))
    report = evaluate(model, (_images(6, 1), torch.arange(6) % 3), attacks=["clean", "noise:severity=3"], eps=0.001)
    assert set(report.verdicts) == {"clean", "noise:severity=3"}


def test_there_is_no_fourth_severity() -> None:
    with pytest.raises(InvalidInput, match="severity"):
        resolve("noise:severity=4", Ball())
