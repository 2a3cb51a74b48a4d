"""HAM: examples that are still classified correctly after a few attack steps are left out of the loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fairbench import AttackOutput, Batch, Context, StepOutput, cross_entropy, frozen, hyper, register_method

from .sat import SAT

__all__ = ["HAM"]


@register_method(
    "ham",
    summary="HAM: SAT on those examples that the first attack steps break, after a plain beginning",
    citation="Hard Adversarial Example Mining for Improving Robust Fairness, IEEE TIFS, arXiv 2308.01823",
    provenance="code",
)
class HAM(SAT):
    """Mine the hard examples of each batch. Where there are none, weights and momentum stay as they were.

    Easy examples go through the remaining steps and the network with the others, so that no shape depends on the data:
    the loss is that of the code, but BatchNorm sees the whole batch.
    """

    classify_step: int = hyper(3, source="code: yyl-github-1896/HAM, CIFAR-10, CIFAR-100; 5 on SVHN", ge=0)
    begin: float = hyper(50 / 120, source="code: yyl-github-1896/HAM, epoch 50 of 120; 60 on CIFAR-100", ge=0, le=1)

    def setup(self, context: Context) -> None:
        """Start with a batch that has hard examples."""
        super().setup(context)
        self.found = torch.ones((), dtype=torch.bool, device=context.device)

    def attack(self, model: nn.Module, batch: Batch) -> AttackOutput:
        """PGD that after `classify_step` of its steps notes which samples are misclassified."""
        if self.context.progress < self.begin:
            return super().attack(model, batch)
        memo, steps = dict[str, Tensor](), self.context.recipe.attack_steps
        first = min(self.classify_step, steps)
        with frozen(model, mode=self.attack_mode):
            loss = self.attack_loss(model, batch, memo)
            x_adv, early = self.ascend(model, batch, loss, start=self.start(batch), steps=first)
            with torch.no_grad():
                keep = model(x_adv).argmax(dim=1) != batch.y
            x_adv, late = self.ascend(model, batch, loss, start=x_adv, steps=steps - first)
        return AttackOutput(x_adv, early + late, keep, memo)

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Mean cross-entropy over the samples that are kept; 0 when there are none."""
        if attacked.keep is None:
            return super().loss(model, batch, attacked)
        logits, kept = model(attacked.x_adv), attacked.keep.float()
        self.found = attacked.keep.any()
        values = cross_entropy(logits, batch.y) * kept / kept.mean().clamp(min=1 / len(kept))
        return StepOutput(self.mean(values, batch.y, "weight_adv"), logits_adv=logits)

    def step(self, closure: Callable[[], StepOutput]) -> StepOutput:
        """Step, and take the step back where no sample was kept: momentum and weight decay would move the weights."""
        if self.context.progress < self.begin:
            return super().step(closure)
        before = [value.clone() for value in self._moved()]
        output = super().step(closure)
        for value, old in zip(self._moved(), before, strict=True):
            value.copy_(torch.where(self.found, value, old))
        return output

    def _moved(self) -> list[Tensor]:
        """All that an optimiser step changes; momentum that does not exist yet is created at 0."""
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
