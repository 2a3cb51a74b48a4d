"""TRIX (Medi et al., 2025): targeted attacks on each batch's strong classes, untargeted on its weak ones, on DAFA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairbench import (
    Batch,
    Context,
    ImageRNG,
    cross_entropy,
    frozen,
    hyper,
    kl_divergence,
    register_method,
    register_policy,
)

from .dafa import Distances
from .fair_tat import draw_targets, target_distribution
from .sy_far import mean_predictions
from .trades import TRADES, PassOrder

__all__ = ["TRIX", "TRIXWeights", "batch_weights", "strong_classes"]

CITATION = "Medi et al., TRIX - Trading Adversarial Fairness via Mixed Adversarial Training, arXiv 2507.07768"
CODE = "code: Fairness-a11y/TRIX"
RECIPE = {"lr": 0.1, "weight_decay": 5e-4, "nesterov": True, "epochs": 150, "milestones": (139 / 150, 144 / 150)}


def batch_weights(clean_logits: Tensor, y: Tensor, lam: float) -> Tensor:
    """DAFA's weights [C] of one batch from its clean logits [B,C] and y int64 [B]; below 1 for a class that loses.

    S[i] is the mean prediction over the batch's class i, with 1e-8 added to S[i,i]. For each pair i, j a class with
    S[i,i] < S[j,j] gains lam S[i,j] S[j,j], and any other, ties included, loses lam S[j,i] S[i,i]. A class that is
    absent from the batch changes no weight.
    """
    mean = mean_predictions(clean_logits, y)
    mean = mean + 1e-8 * torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
    own = mean.diagonal()
    moved = torch.where(own.unsqueeze(1) < own, mean * own, -mean.T * own.unsqueeze(1))
    return 1 + lam * (moved.sum(dim=1) - moved.diagonal())


def strong_classes(weights: Tensor, y: Tensor) -> Tensor:
    """Which classes, bool [C], have a weight, float [C], below the mean of weights[y] over the batch; y int64 [B]."""
    return weights < weights.double()[y].mean()


@register_policy("trix_weights", summary="DAFA's W as weight of the clean term, margin and step", citation=CITATION)
class TRIXWeights(Distances):
    """DAFA's weights, which TRIX computes once, after 70 of 150 epochs."""

    supplies = ("weight_clean", "margin", "step")
    paper_recipe: ClassVar[Mapping[str, Any]] = RECIPE
    warm_up: float = hyper(70 / 150, source=f"{CODE}, epoch 70 of 150", ge=0, le=1)


@register_method(
    "trix_attacks",
    summary="TRIX's mixed attacks alone: TRADES with targeted attacks on each batch's strong classes",
    citation=CITATION,
    provenance="ablation",
)
class TRIX(TRADES):
    """Attack samples of the batch's strong classes towards random classes, and other samples as TRADES does."""

    paper_recipe: ClassVar[Mapping[str, Any]] = RECIPE
    pass_order: PassOrder = hyper("adv-clean", source=CODE)
    batch_lam: float = hyper(1.0, source=f"{CODE}, lambda of each batch's weights", gt=0)

    def setup(self, context: Context) -> None:
        """Start with no strong class; 1 marks a strong one, because the history records numbers."""
        super().setup(context)
        self.strong = torch.zeros(context.num_classes, device=context.device)

    def augment(self, batch: Batch) -> Batch:
        """Determine the strong classes; this hook sees the whole batch, an attack on several ranks a part of it."""
        batch = super().augment(batch)
        with frozen(self.context.model) as model, torch.no_grad():
            weights = batch_weights(model(batch.x).float(), batch.y, self.batch_lam)
        self.strong.copy_(strong_classes(weights, batch.y))
        return batch

    def attack_loss(self, model: nn.Module, batch: Batch, memo: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """Negative cross-entropy with the target for strong classes, KL from the clean prediction for the others."""
        with torch.no_grad():
            clean = model(batch.x).float().softmax(dim=1)
        chances = target_distribution(torch.zeros_like(self.strong))[batch.y]
        rng = ImageRNG(self.context.seed, batch.index, stream=self.context.epoch + 1)
        target, strong = draw_targets(chances, rng.uniform(batch.y.shape, restart=1)), self.strong[batch.y] > 0
        return lambda logits: torch.where(strong, -cross_entropy(logits, target), kl_divergence(clean, logits))


register_method(
    "trix",
    base="trix_attacks",
    policies=["trix_weights"],
    summary="TRIX: mixed targeted and untargeted attacks with class-wise weights and margins",
    citation=CITATION,
    provenance="code",
)
