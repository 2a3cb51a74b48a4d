"""A small network with random weights, images for it, and their random numbers: what attacks are tried on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairbench.attacks import ImageRNG


def small_net(seed: int = 0, classes: int = 4, scale: float = 3.0) -> nn.Module:
    """Return a convolutional network for images [1,4,4]: smooth enough to attack, and not linear."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(128, classes)).eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
        parameter.mul_(scale)
    return net


def random_images(n: int, seed: int = 1) -> Tensor:
    """Return images float32 [n,1,4,4] in [0,1]."""
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def image_rng(n: int, seed: int = 0) -> ImageRNG:
    """Return the random numbers of the first n images."""
    return ImageRNG(seed, torch.arange(n))
