from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fairbench.models import build_model, load_checkpoint, save_checkpoint


@pytest.fixture
def checkpoint_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint `net.safetensors`, and 120 images for it in `test.npz`, in the working directory."""
    torch.manual_seed(0)
    spec, shape = "small-cnn:width=8", (1, 8, 8)
    save_checkpoint(tmp_path / "net.safetensors", build_model(spec, num_classes=4, shape=shape), spec, 4, shape)
    images = np.random.default_rng(0).integers(0, 256, (120, 8, 8, 1), dtype=np.uint8)
    with torch.no_grad():
        x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        labels = load_checkpoint(tmp_path / "net.safetensors")[0].eval()(x).argmax(1).numpy()
    labels[:4] = np.arange(4)
    np.savez(tmp_path / "test.npz", images=images, labels=labels, class_names=np.array(list("abcd")))
    monkeypatch.chdir(tmp_path)
    return tmp_path
