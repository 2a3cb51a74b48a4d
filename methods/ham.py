"""HAM: examples that are still classified correctly after a few attack steps are left out of the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairbench import AttackOutput, Batch, Context, StepOutput, cross_entropy, frozen, hyper, register_method

from .sat import NORMALISED, SAT
from .trades import OWN_BALL

__all__ = ["HAM"]


@register_method(
    "ham",
    summary="HAM: SAT on those examples that the first attack steps break, after a plain beginning",
    citation="Hard Adversarial Example Mining for Improving Robust Fairness, IEEE TIFS, arXiv 2308.01823",
    provenance="code",
)
class HAM(SAT):
    """Mine the hard examples of each batch. A batch without any leaves weights and momentum unchanged.

    Easy examples go through the remaining steps and the network with the others, so that no shape depends on the data.
    Mining begins in the script's fiftieth epoch of 120, which has the index 49.
    """

    paper_recipe: ClassVar[Mapping[str, Any]] = {
        "lr": 0.1,
        "weight_decay": 2e-4,
        "nesterov": False,
        "epochs": 120,
        "milestones": (59 / 120, 89 / 120, 109 / 120),
    }
    departures = (
        OWN_BALL,
        NORMALISED,
        "BatchNorm sees the whole batch; the script forwards the kept examples alone.",
        "The script resumes an adversarially trained model for its last 72 epochs; here one run does both parts.",
        "With other than ten attack steps the classification comes at the same share of them, rounded to a step.",
        "On SVHN the script has a learning rate of 0.01 and classifies after five steps; the defaults are CIFAR-10's.",
        "The last of the paper's milestones halves the learning rate, the others divide it by ten.",
        "The CIFAR-100 script's keep_bili_high_conf has no effect in the released code and is left out.",
    )
    classify_step: int = hyper(
        3,
        source="code: yyl-github-1896/HAM, CIFAR-10, CIFAR-100; 5 on SVHN; of ten attack steps",
        search=[1, 3, 5],
        ge=0,
        le=10,
    )
    begin: float = hyper(
        49 / 120,
        source="code: yyl-github-1896/HAM, epoch index 49 of 120; 59 on CIFAR-100",
        many_classes=59 / 120,
        ge=0,
        le=1,
    )

    def setup(self, context: Context) -> None:
        """Start with a batch that has hard examples."""
        super().setup(context)
        self.found = torch.ones((), dtype=torch.bool, device=context.device)

    def attack(self, model: nn.Module, batch: Batch) -> AttackOutput:
        """PGD that records, after `classify_step` tenths of its steps, which samples are misclassified."""
        if self.context.progress < self.begin:
            return super().attack(model, batch)
        memo, steps = dict[str, Tensor](), self.context.recipe.attack_steps
        first = round(self.classify_step * steps / 10)
        with frozen(model, mode=self.attack_mode):
            loss = self.attack_loss(model, batch, memo)
            x_adv, early = self.ascend(model, batch, loss, start=self.start(batch), steps=first)
            with torch.no_grad():
                keep = model(x_adv).argmax(dim=1) != batch.y
            x_adv, late = self.ascend(model, batch, loss, start=x_adv, steps=steps - first)
        return AttackOutput(x_adv, early + late, keep, memo)

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Mean cross-entropy over the samples that are kept; 0 without any."""
        if attacked.keep is None:
            return super().loss(model, batch, attacked)
        logits, kept = model(attacked.x_adv), attacked.keep.float()
        self.found.copy_(attacked.keep.any())
        values = cross_entropy(logits, batch.y) * kept / kept.mean().clamp(min=1 / len(kept))
        return StepOutput(self.mean(values, batch.y, "weight_adv"), logits_adv=logits)

    def step(self, closure: Callable[[], StepOutput]) -> StepOutput:
        """Step, and undo the step if no sample was kept: momentum and weight decay would move the weights."""
        if self.context.progress < self.begin:
            return super().step(closure)
        before = [value.clone() for value in self._moved()]
        output = super().step(closure)
        for value, old in zip(self._moved(), before, strict=True):
            value.copy_(torch.where(self.found, value, old))
        return output

    def _moved(self) -> list[Tensor]:
        """All tensors that an optimiser step changes; momentum that does not exist yet is created as 0."""
        optimizer, moved = self.context.optimizer, list[Tensor]()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                moved.append(parameter.detach())
                if group["momentum"]:
                    state = optimizer.state[parameter]
                    if state.get("momentum_buffer") is None:
                        state["momentum_buffer"] = torch.zeros_like(parameter)
                    moved.append(state["momentum_buffer"])
        return moved
