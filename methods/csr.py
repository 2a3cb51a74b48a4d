"""CSR (Jin et al., 2025): fine-tuning that lowers the spectral norm of the robust confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairbench import (
    AttackOutput,
    Batch,
    Context,
    HardLabels,
    ImageRNG,
    StepOutput,
    cross_entropy,
    frozen,
    hyper,
    inner_maximisation,
    register_method,
)

from .trades import TRADES, PassOrder, trades_loss

__all__ = ["CSR", "confusions", "gradient_matrix"]

CODE = "code: Alexkael/CONFUSIONAL-SPECTRAL-REGULARIZATION"
RECIPE = {"lr": 0.001, "weight_decay": 5e-4, "nesterov": False, "epochs": 2, "milestones": ()}
LOWEST, HIGHEST = 0.01, 2.01


def gradient_matrix(errors: Tensor) -> Tensor:
    """Gradient of the errors' spectral norm with respect to each entry, [C,C], rescaled to the range 0.01 to 2.01.

    `errors` float or int [C,C]: samples of the column's class predicted as the row's, with a diagonal of 0. The result
    is u v^T of the leading singular vectors, rescaled; if all entries are equal, the result is 1.01 everywhere.
    """
    left, _, right = torch.linalg.svd(errors.double())
    norm = torch.outer(left[:, 0], right[0])
    spread = norm.max() - norm.min()
    uneven = errors.any() & (spread > 1e-9)
    scaled = LOWEST + (HIGHEST - LOWEST) * (norm - norm.min()) / torch.where(uneven, spread, 1.0)
    matrix = torch.where(uneven, scaled, (LOWEST + HIGHEST) / 2)
    return matrix.to(errors.dtype if errors.is_floating_point() else torch.float32)


def confusions(logits: Tensor, y: Tensor, margin: float) -> Tensor:
    """Errors float32 [C,C], rows predicted, columns true, of logits [B,C] with the true one times `margin`."""
    true = F.one_hot(y, logits.shape[1]).bool()
    predicted = F.one_hot(torch.where(true, margin * logits, logits).argmax(dim=1), logits.shape[1])
    found = predicted.float().T @ true.float()
    return found - torch.diag(found.diagonal())


@register_method(
    "csr",
    summary="CSR: TRADES, fine-tuned with weights on the confusions that raise the spectral norm of their matrix",
    citation=(
        "Jin et al., Enhancing Robust Fairness via Confusional Spectral Regularization, ICLR 2025, arXiv 2501.13273"
    ),
    provenance="code",
)
class CSR(TRADES):
    """Before each epoch the training set is attacked; its confusions weigh a cross-entropy on adversarial images."""

    needs = ("warm_start",)
    paper_recipe: ClassVar[Mapping[str, Any]] = RECIPE
    departures = (
        "Fine-tuning lasts 2/110 of the warm start, at least two epochs; the script always has two.",
        "The suite's warm start takes the place of a finished TRADES or TRADES-AWP network.",
    )
    own_recipe: ClassVar[Mapping[str, Any]] = {"epochs": 2 / 110, "lr": 0.001, "schedule": "constant"}
    pass_order: PassOrder = hyper("clean-adv-clean-adv", source=CODE)
    natural: float = hyper(0.7, source=f"{CODE}, weight of the clean cross-entropy", ge=0)
    spectral: float = hyper(0.3, source=f"{CODE}, weight of the spectral term", search=[0.1, 0.3, 1.0], ge=0)
    margin: float = hyper(0.9, source=f"{CODE}, factor of the true class's logit where errors are counted", gt=0)
    matrix_steps: int = hyper(10, source=f"{CODE}, PGD-10 before each epoch", ge=1)

    def setup(self, context: Context) -> None:
        """Start with equal weights, which the first epoch replaces before its first step."""
        super().setup(context)
        self.gradient = torch.ones(context.num_classes, context.num_classes, device=context.device)

    def begin_epoch(self, context: Context) -> None:
        """Count the errors of the model, in eval mode, on the attacked training images."""
        super().begin_epoch(context)
        errors = torch.zeros_like(self.gradient)
        eps, step = context.threat.eps, context.threat.eps * context.recipe.attack_rel_step
        with frozen(context.model) as model:
            for batch in context.training():
                rng = ImageRNG(context.seed, batch.index, stream=context.epoch + 1)
                start = batch.x + eps * (2 * rng.uniform(batch.x.shape, restart=1) - 1)
                how = {"eps": eps, "step": step, "steps": self.matrix_steps, "start": start}
                x_adv, _ = inner_maximisation(model, batch.x, loss=HardLabels(batch.y), **how)  # type: ignore[arg-type]
                with torch.no_grad():
                    errors += confusions(model(x_adv).float(), batch.y, self.margin)
        self.gradient.copy_(gradient_matrix(errors))

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """TRADES with a lighter clean term, plus the mean of g (log g - log p(adv)[y]), g by each prediction."""
        y, logits = batch.y, self.passes(model, batch, attacked, self.pass_order)
        clean, adv = logits["clean"], logits["adv"]
        weight = self.gradient[adv.detach().argmax(dim=1), y]
        spectral = weight * (weight.log() + cross_entropy(adv, y))
        total = trades_loss(
            clean,
            adv,
            y,
            self.beta * self.per_sample("beta", y),
            weight_clean=self.natural * self.sample_weights(y, "weight_clean"),
            weight_adv=self.sample_weights(y, "weight_adv"),
        )
        total = total + self.spectral * self.mean(spectral, y, "weight_adv")
        return StepOutput(total, logits_adv=adv, logits_clean=clean)
