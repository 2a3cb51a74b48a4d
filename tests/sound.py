"""A method and a policy that keep the contract, and which checks fail once one thing about them is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch

from fairbench import (
    ClassPolicy,
    Method,
    StepOutput,
    cross_entropy,
    register_method,
    register_policy,
)
from fairbench.authoring.check import HookFinding, check_method
from fairbench.authoring.checks import CHECKS


class Sound(Method):
    """A method that keeps the contract; tests break one thing at a time."""

    reads = ("weight", "weight_adv", "margin", "step")

    def loss(self, model, batch, attacked):
        logits = model(attacked.x_adv)
        return StepOutput(self.mean(cross_entropy(logits, batch.y), batch.y, "weight_adv"), logits_adv=logits)


class Even(ClassPolicy):
    supplies = ("weight",)

    def setup(self, context):
        super().setup(context)
        self.weight = torch.ones(context.num_classes)

    def vectors(self):
        return {"weight": self.weight}


def failures(method: type[Method], *policies: type[ClassPolicy], of: tuple[str, ...] = ()) -> dict[str, str]:
    """Register under a throw-away name; the details of the checks that fail, by check, or only of those named."""
    register_method("under_test")(method)
    names = ["under_test"]
    for number, policy in enumerate(policies):
        register_policy(f"policy_{number}")(policy)
        names.append(f"policy_{number}")
    chosen = {title: examine for title, examine in CHECKS.items() if title in of or not of}
    with patch("fairbench.authoring.check.CHECKS", chosen):
        found = check_method("+".join(names))
    assert all(isinstance(finding, HookFinding) and "\n" not in str(finding) for finding in found)
    return {finding.check: finding.detail for finding in found if not finding.passed}


def with_loss(function: Callable[..., Any]) -> type[Method]:
    return type("WithLoss", (Sound,), {"loss": function})


def with_attack(function: Callable[..., Any]) -> type[Method]:
    return type("WithAttack", (Sound,), {"attack": function})
