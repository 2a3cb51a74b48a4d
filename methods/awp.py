"""AWP (Wu et al., 2020): gradients are taken at adversarially perturbed weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fairbench import ClassPolicy, StepOutput, hyper, register_method, register_policy

from .sat import SAT

__all__ = ["AWP", "worst_direction"]

CITATION = "Wu et al., Adversarial Weight Perturbation Helps Robust Generalization, NeurIPS 2020, arXiv 2004.05884"


def worst_direction(weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient rescaled to the norm of the weight, both of one shape: ||w|| / ||g|| * g, 0 for a gradient of 0."""
    length, steepness = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(gradient)
    return gradient.mul(length / (steepness + 1e-20))


@register_policy("awp", summary="Adversarial weight perturbation around every step of any objective", citation=CITATION)
class AWP(ClassPolicy):
    """Perturb the weights by one step of ascent, take the gradient there, and undo the perturbation.

    The script takes a plain SGD step on a copy of the model, the proxy. Its direction is that of the gradient at any
    rate, so that neither proxy nor rate is needed. The optimiser's weight decay acts on the weights without the
    perturbation. `warm_up` is the share of the epochs without perturbation: TRADES-AWP begins after nine of 200 epochs.
    """

    paper_recipe = SAT.paper_recipe
    departures = (
        "The script's proxy has BatchNorm statistics of its own; here the pass for the direction leaves none.",
        "Weight decay acts on the unperturbed weights; the scripts' optimiser step is taken at the perturbed ones.",
        "On SVHN the script uses a learning rate of 0.01, steps of 1/255 and five epochs of warm-up of 200.",
        "AT-AWP scores the attack at the perturbed weights, its script before; only BatchNorm's statistics see it.",
        "TRADES-AWP's script drops the rate one epoch earlier than AT-AWP's, whose milestones are shown, and "
        "attacks with 8/255 and 2/255.",
    )
    gamma: float = hyper(
        0.01, source="code: csdongxian/AWP, AT-AWP; 0.005 for TRADES-AWP", search=[0.005, 0.01, 0.02], ge=0
    )
    warm_up: float = hyper(0.0, source="code: csdongxian/AWP, AT-AWP; epoch index 9 of 200 for TRADES-AWP", ge=0, le=1)

    def around(self, closure: Callable[[], StepOutput]) -> StepOutput:
        """Run the closure for the direction, restore BatchNorm's statistics, and run it at the perturbed weights."""
        model = self.context.model
        if self.context.progress < self.warm_up:
            return closure()
        statistics = [buffer.clone() for buffer in model.buffers()]
        closure()
        moved = list[tuple[Tensor, Tensor]]()
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), statistics, strict=True):
                buffer.copy_(value)
            for name, weight in model.named_parameters():
                if weight.dim() > 1 and "weight" in name and weight.grad is not None:
                    moved.append((weight, weight.clone()))
                    weight.add_(worst_direction(weight, weight.grad), alpha=self.gamma)
        output = closure()
        with torch.no_grad():
            for tensor, before in moved:
                tensor.copy_(before)
        return output


register_method(
    "sat_awp",
    base="sat_train_mode",
    policies=["awp"],
    options={"sat_train_mode.pass_order": "adv-adv-clean"},
    summary="AT-AWP: SAT with adversarial weight perturbation",
    citation=CITATION,
    provenance="code",
)
register_method(
    "trades_awp",
    base="trades",
    policies=["awp"],
    options={"awp.gamma": 0.005, "awp.warm_up": 0.045, "trades.pass_order": "adv-clean-clean"},
    summary="TRADES-AWP: TRADES with adversarial weight perturbation",
    citation=CITATION,
    provenance="code",
)
