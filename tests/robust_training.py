"""Networks trained adversarially within a test, and images for them that need no download."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairbench.attacks import frozen, inner_maximisation
from fairbench.attacks.losses import ce
from fairbench.data.sources import load_dataset
from fairbench.models.architectures import build_model

SIDE = 32
_STRIP = 128


def digits_of_side(side: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test digits, float32 [N,1,side,side] in [0,1] with labels, enlarged bilinearly above 8 x 8."""
    data = load_dataset("digits")
    train, test = (
        (torch.from_numpy(split.images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(split.labels))
        for split in (data.train, data.test)
    )
    if side > train[0].shape[3]:
        train, test = ((F.interpolate(x, size=(side, side), mode="bilinear"), y) for x, y in (train, test))
    return train, test


def photographs(train: int = 2000, test: int = 500) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Crops, float32 [N,3,32,32], of the photographs in scikit-learn, labelled with the strip that they are from.

    There are five upright strips a photograph, ten classes in all.
    """
    from sklearn.datasets import load_sample_images

    photos, rng = np.stack(load_sample_images().images), np.random.default_rng(0)

    def crops(n: int) -> tuple[Tensor, Tensor]:
        labels = np.arange(n) % 10
        top = rng.integers(0, photos.shape[1] - SIDE + 1, n)
        left = _STRIP * (labels % 5) + rng.integers(0, _STRIP - SIDE + 1, n)
        cut = [photos[c // 5, i : i + SIDE, j : j + SIDE] for c, i, j in zip(labels, top, left, strict=True)]
        return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float().div(255).contiguous(), torch.tensor(labels)

    return crops(train), crops(test)


def trained(
    spec: str, x: Tensor, y: Tensor, *, eps: float, epochs: int, batch: int = 64, steps: int = 5, step: float = 0.5
) -> nn.Module:
    """Train a network against PGD of `steps` steps of `step` eps, and return it in eval mode."""
    torch.manual_seed(0)
    model = build_model(spec, num_classes=10, shape=tuple(x.shape[1:]))  # type: ignore[arg-type]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    batches = epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=batches)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(batch):
            clean, labels = x[index], y[index]
            with frozen(model):
                start = (clean + eps * (2 * torch.rand_like(clean) - 1)).clamp(0, 1)
                attack = {"eps": eps, "step": step * eps, "steps": steps, "start": start}
                x_adv, _ = inner_maximisation(model, clean, loss=lambda z, y=labels: ce(z, y), **attack)  # type: ignore[misc]
            optimiser.zero_grad()
            F.cross_entropy(model(x_adv), labels).backward()
            optimiser.step()
            schedule.step()
    return model.eval()
