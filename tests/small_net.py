"""A small network with random weights, images for it, and their random numbers: what attacks are tried on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairbench.attacks import Attack, ImageRNG

Shape = tuple[int, int, int]


def small_net(seed: int = 0, classes: int = 4, scale: float = 3.0, shape: Shape = (1, 4, 4)) -> nn.Module:
    """Return a convolutional network for images of a shape: smooth enough to attack, and not linear."""
    torch.manual_seed(seed)
    convolution, head = nn.Conv2d(shape[0], 8, 3, padding=1), nn.Linear(8 * shape[1] * shape[2], classes)
    net = nn.Sequential(convolution, nn.Tanh(), nn.Flatten(), head).eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
        parameter.mul_(scale)
    return net


def random_images(n: int, seed: int = 1, shape: Shape = (1, 4, 4)) -> Tensor:
    """Return images float32 [n, *shape] in [0,1]."""
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def image_rng(n: int, seed: int = 0) -> ImageRNG:
    """Return the random numbers of the first n images."""
    return ImageRNG(seed, torch.arange(n))


def watched(attack: Attack, made: list[Tensor]) -> Attack:
    """Return the attack, which also notes the images that it makes."""

    def craft(model: nn.Module, x: Tensor, y: Tensor, rng: ImageRNG) -> Tensor:
        made.append(attack.craft(model, x, y, rng))
        return made[-1]

    return Attack(attack.name, attack.text, craft, threat=attack.threat, copied=attack.copied)
