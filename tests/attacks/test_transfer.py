from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fairbench.attacks import Ball, ImageRNG, pgd, resolve
from fairbench.errors import InvalidInput, Missing
from fairbench.models.architectures import build_model
from fairbench.models.checkpoint import save_checkpoint


def _save(path: Path, classes: int = 4, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    model = build_model("small-cnn:width=4", num_classes=classes, shape=shape)
    save_checkpoint(path, model, "small-cnn:width=4", classes, shape)
    return model.eval().requires_grad_(False)


def _images(n: int) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_it_shows_the_model_what_pgd_makes_on_the_surrogate(tmp_path: Path) -> None:
    surrogate, x, rng = _save(tmp_path / "other.safetensors"), _images(12), ImageRNG(0, torch.arange(12))
    torch.manual_seed(5)
    victim = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).requires_grad_(False)
    y = victim(x).argmax(1)
    y[:3] = (y[:3] + 1) % 4
    craft = resolve(f"transfer-10:surrogate={tmp_path / 'other.safetensors'},step=0.02", Ball("Linf", 0.1)).craft
    found = craft(victim, x, y, rng)
    expected = pgd(surrogate, x, y, eps=0.1, steps=10, step=0.02, rng=rng, iterate="last")
    assert torch.equal(found[3:], expected[3:])
    assert torch.equal(found[:3], x[:3])


@pytest.mark.parametrize("prefix", ["", "file:"])
def test_a_surrogate_that_is_written_anew_is_opened_anew(tmp_path: Path, prefix: str) -> None:
    x, rng = _images(12), ImageRNG(0, torch.arange(12))
    torch.manual_seed(5)
    victim = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).requires_grad_(False)
    y = victim(x).argmax(1)
    text = f"transfer-5:surrogate={prefix}{tmp_path / 'other.safetensors'},step=0.04"
    for seed in (3, 4):
        surrogate = _save(tmp_path / "other.safetensors", seed=seed)
        found = resolve(text, Ball("Linf", 0.1)).craft(victim, x, y, rng)
        assert torch.equal(found, pgd(surrogate, x, y, eps=0.1, steps=5, step=0.04, rng=rng, iterate="last"))


def test_a_surrogate_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    x, y, rng = _images(2), torch.tensor([0, 1]), ImageRNG(0, torch.arange(2))
    victim = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    _save(tmp_path / "seven.safetensors", classes=7)
    _save(tmp_path / "rgb.safetensors", shape=(3, 8, 8))
    for name, match in (("seven", "7 classes"), ("rgb", "cannot take images")):
        craft = resolve(f"transfer:surrogate={tmp_path / name}.safetensors", Ball("Linf", 0.1)).craft
        with pytest.raises(InvalidInput, match=match):
            craft(victim, x, y, rng)
    with pytest.raises(Missing):
        resolve(f"transfer:surrogate={tmp_path}/none.safetensors", Ball("Linf", 0.1)).craft(victim, x, y, rng)
    with pytest.raises(InvalidInput, match="surrogate"):
        resolve("transfer", Ball("Linf", 0.1))
