"""A method, policies of constant vectors, and what surrounds them in a run: a network, a context and a batch."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

import miniature
from fairbench.data.batch import Batch
from fairbench.losses import cross_entropy
from fairbench.method.context import Context
from fairbench.method.method import Method
from fairbench.method.policy import ClassPolicy
from fairbench.method.record import StepOutput
from fairbench.suites.sections import Recipe

CPU = torch.device("cpu")


def net(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, classes))


def context(**settings) -> Context:
    model = settings.pop("model", None) or net()
    images = {"class_counts": torch.tensor([4, 4, 4]), "train_size": 12}
    return miniature.context(model, **{"recipe": Recipe(attack_steps=5, attack_rel_step=0.5), **images, **settings})


def batch(size: int = 12, offset: int = 0) -> Batch:
    x = torch.rand(size, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return Batch(x, torch.arange(size) % 3, torch.arange(size) + offset)


class Plain(Method):
    """Cross-entropy on adversarial inputs."""

    reads: ClassVar = ("weight", "weight_adv", "margin", "step")

    def loss(self, model, batch, attacked):
        logits = model(attacked.x_adv)
        return StepOutput(self.mean(cross_entropy(logits, batch.y), batch.y, "weight_adv"), logits_adv=logits)


def policy(**constant: list[float]) -> ClassPolicy:
    """A policy that supplies constant vectors."""

    class Constant(ClassPolicy):
        supplies: ClassVar = tuple(constant)

        def vectors(self):
            return {name: torch.tensor(value) for name, value in constant.items()}

    return Constant()


def ready(*policies: ClassPolicy, method: Method | None = None, **settings) -> Method:
    method = method or Plain()
    method.policies = list(policies)
    method.setup(context(**settings))
    return method
