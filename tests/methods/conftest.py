"""Two epochs of real training on generated images, for tests that a method's mechanism had an effect."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fairbench.data import Dataset, Split
from fairbench.method.composition import resolve_method
from fairbench.results.folder import RunFolder
from fairbench.train.loop import train
from miniature import miniature_spec, untrained_network


class Trained(NamedTuple):
    """The last weights as one vector, and the class-wise state at the end of each epoch by its name."""

    weights: Tensor
    state: dict[str, list[list[float]]]


@pytest.fixture
def train_tiny(tmp_path: Path) -> Callable[..., Trained]:
    """Return `train_tiny(name, settings)`: train on three classes, of which higher numbers are easier to separate."""

    def run(name: str, settings: Mapping[str, Any] | None = None) -> Trained:
        rng, labels = np.random.default_rng(0), np.arange(60) % 3
        images = rng.integers(0, 130, (60, 8, 8, 1))
        images[:, :, :4] += 40 * labels[:, None, None, None] ** 2 // 2
        split = Split(images.clip(0, 255).astype(np.uint8), labels)
        recipe = {"batch_size": 14, "flip": False, "milestones": (0.5,)}
        spec = miniature_spec(resolve_method(name, settings), method_per_class=6, **recipe)
        folder = RunFolder(tmp_path / str(len(list(tmp_path.iterdir()))))
        folder.path.mkdir()
        train(spec, folder, Dataset("generated", split, split, ("a", "b", "c")), teacher=untrained_network(1))
        weights = torch.cat([value.double().flatten() for value in load_file(folder.last).values()])
        assert torch.isfinite(weights).all()
        with folder.history.open(newline="") as handle:
            rows = list(csv.DictReader(handle))
        names = [column.removesuffix("[0]") for column in rows[0] if column.endswith("[0]")]
        return Trained(weights, {n: [[float(row[f"{n}[{c}]"]) for c in range(3)] for row in rows] for n in names})

    return run
