"""Networks of several sizes and shapes, with random weights, that engines are compared on."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from fairbench.models import build_model

__all__ = ["SUBJECTS", "cnn_a"]

Made = tuple[nn.Module, tuple[int, int, int], int]


class Normalised(nn.Module):
    """A normalisation as users write it, in front of a network."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def cnn_a() -> nn.Module:
    """CNN-A of the verification literature behind CIFAR-10's normalisation, 0.9 M multiplications an image.

    FAIRBENCH_BENCHMARK_WEIGHTS is an .npz with one array a parameter, named `0.weight` ... `7.bias`; without it weights
    are random. Source of the architecture: Dathathri et al., "Enabling certification of verification-agnostic networks
    via memory-efficient semidefinite programming", NeurIPS 2020.
    """
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()]
    network = nn.Sequential(*convolutions, nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10))
    weights = os.environ.get("FAIRBENCH_BENCHMARK_WEIGHTS")
    if weights:
        with np.load(weights) as arrays:
            network.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    return Normalised(network, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)).eval()


def _built(spec: str, shape: tuple[int, int, int], batch: int) -> Made:
    torch.manual_seed(0)
    model = build_model(spec, num_classes=10, shape=shape)
    with torch.no_grad():
        model.train()(torch.rand(16, *shape))
    return model.eval(), shape, batch


SUBJECTS: dict[str, Callable[[], Made]] = {
    "digits small-cnn": partial(_built, "small-cnn:width=16,batchnorm=true", (1, 8, 8), 250),
    "CNN-A": lambda: (cnn_a(), (3, 32, 32), 250),
    "small-cnn, width 8": partial(_built, "small-cnn:width=8,batchnorm=true", (3, 32, 32), 250),
    "resnet-micro": partial(_built, "resnet-micro", (3, 32, 32), 250),
    "small-cnn, width 16": partial(_built, "small-cnn:width=16,batchnorm=true", (3, 32, 32), 250),
    "resnet-micro, width 32": partial(_built, "resnet-micro:width=32", (3, 32, 32), 100),
    "small-cnn, width 32": partial(_built, "small-cnn:width=32,batchnorm=true", (3, 32, 32), 100),
    "small-cnn, width 64": partial(_built, "small-cnn:width=64,batchnorm=true", (3, 32, 32), 50),
    "mobilenet-v2": partial(_built, "mobilenet-v2", (3, 32, 32), 16),
    "resnet18": partial(_built, "resnet18", (3, 32, 32), 16),
}
