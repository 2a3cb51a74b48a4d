"""FairAT (Mou et al., 2025), reconstructed from its abstract: augment samples with a high adversarial loss more."""

from __future__ import annotations

import torch
from torch import Tensor

from fairbench import AttackOutput, Batch, ClassRecord, Context, ImageRNG, StepOutput, hyper, register_method

from .sat import SAT

__all__ = ["FairAT", "cut_out", "hard_threshold"]

CHOSEN = "reconstruction: chosen here, the abstract gives no number"


def hard_threshold(hardness: Tensor, share: float) -> Tensor:
    """The scalar above which the hardest `share` of hardness float [N] lies; -1 marks samples that were not seen."""
    return torch.quantile(hardness[hardness >= 0], 1 - share)


def cut_out(x: Tensor, centre: Tensor, side: float) -> Tensor:
    """Set a square of `side` times the height of x [B,C,H,W] to 0, around each sample's own centre [B,2] in [0,1)."""
    height, width = x.shape[2:]
    rows = torch.arange(height, device=x.device) + 0.5 - height * centre[:, :1]
    columns = torch.arange(width, device=x.device) + 0.5 - width * centre[:, 1:]
    near = (2 * rows.abs() < side * height).unsqueeze(2) & (2 * columns.abs() < side * height).unsqueeze(1)
    return x.masked_fill(near.unsqueeze(1), 0.0)


@register_method(
    "fairat",
    summary="FairAT, reconstructed: standard adversarial training with stronger augmentation of hard samples",
    citation=(
        "Mou et al., Fairness is essential for robustness: fair adversarial training by identifying and augmenting "
        "hard examples, Frontiers of Computer Science 2025, 19(3):193803"
    ),
    provenance="reconstruction",
)
class FairAT(SAT):
    """Track the adversarial cross-entropy of every sample; cut out and re-light the hardest share of them."""

    departures = (
        "A reconstruction: the abstract names hard examples by their loss and their augmentation, and gives neither "
        "threshold nor augmentation nor schedule. The optimiser of the paper is unknown too: tuning tries SAT's.",
    )
    begin: float = hyper(0.2, source=CHOSEN, ge=0, le=1)
    hard_share: float = hyper(0.3, source=CHOSEN, search=[0.15, 0.3, 0.5], gt=0, lt=1)
    hardness_momentum: float = hyper(0.5, source=CHOSEN, ge=0, lt=1)
    cut_side: float = hyper(0.5, source=CHOSEN, ge=0, le=1)
    light_jitter: float = hyper(0.3, source=CHOSEN, ge=0, lt=1)

    def setup(self, context: Context) -> None:
        """Start with no sample seen and none hard."""
        super().setup(context)
        self.hardness = torch.full((context.train_size,), -1.0, device=context.device)
        self.threshold = torch.tensor(torch.inf, device=context.device)
        self.hard_in_class = torch.zeros(context.num_classes, device=context.device)

    def begin_epoch(self, context: Context) -> None:
        """Update the threshold, over all classes together."""
        super().begin_epoch(context)
        if context.epoch > 0 and context.progress >= self.begin:
            self.threshold = hard_threshold(self.hardness, self.hard_share)

    def is_hard(self, batch: Batch) -> Tensor:
        """Which samples are hard in this epoch, bool [B]."""
        return self.hardness[batch.index] > self.threshold

    def augment(self, batch: Batch) -> Batch:
        """Change light and contrast of the hard samples and cut out a square; other samples do not change."""
        rng = ImageRNG(self.context.seed, batch.index, stream=self.context.epoch + 1)
        draw = rng.uniform((len(batch.y), 4), restart=1)  # the attack's start takes restart 0
        light, contrast = ((2 * draw[:, 2:] - 1) * self.light_jitter).view(-1, 2, 1, 1, 1).unbind(1)
        mean = batch.x.mean(dim=(1, 2, 3), keepdim=True)
        changed = (mean + (batch.x - mean) * (1 + contrast) + light).clamp(0, 1)
        changed = cut_out(changed, draw[:, :2], self.cut_side)
        return Batch(torch.where(self.is_hard(batch).view(-1, 1, 1, 1), changed, batch.x), batch.y, batch.index)

    def statistics(self, batch: Batch, attacked: AttackOutput, output: StepOutput) -> dict[str, Tensor]:
        """Record which samples were hard, then update their running losses."""
        values = {"hard": self.is_hard(batch), **super().statistics(batch, attacked, output)}
        before, now = self.hardness[batch.index], values["ce_adv"]
        kept = self.hardness_momentum * before + (1 - self.hardness_momentum) * now
        self.hardness[batch.index] = torch.where(before < 0, now, kept)
        return values

    def end_epoch(self, record: ClassRecord) -> None:
        """Record the share of each class that was hard, for the history."""
        super().end_epoch(record)
        self.hard_in_class = record.mean("hard")
