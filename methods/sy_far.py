"""Sy-FAR (Najjar et al., 2025): confusions from class i to j should be as likely as from j to i; its penalty on SAT."""

from __future__ import annotations

from torch import Tensor, nn

from fairbench import AttackOutput, Batch, StepOutput, class_means, cross_entropy, hyper, register_method

from .sat import SAT

__all__ = ["SyFAR", "mean_predictions", "symmetry_penalty"]

CODE = "code: haneenn24/Sy-FAR-Symmetry-based-Fair-Adversarial-Robustness"


def mean_predictions(logits: Tensor, y: Tensor) -> Tensor:
    """Mean class probabilities [C,C] of logits [B,C], row i those of the batch's class i; 0 for an absent class."""
    return class_means(logits.softmax(dim=1), y, logits.shape[1])


def symmetry_penalty(adv_logits: Tensor, y: Tensor, eps: float) -> Tensor:
    """Sum over pairs i < j of (a + b) |a - b| / (a + b + eps), a scalar; adv_logits [B,C], y int64 [B].

    a is the mean probability of class j over the batch's samples of class i, and b the reverse. Confusions into a class
    that is absent from the batch have no counterpart and are pushed down.
    """
    confusion = mean_predictions(adv_logits, y)
    there, back = confusion.triu(1), confusion.T.triu(1)
    return ((there + back) * (there - back).abs() / (there + back + eps)).sum()


@register_method(
    "sy_far",
    summary="Sy-FAR's symmetry penalty on SAT: confusions of two classes are as frequent in either direction",
    citation=(
        "Najjar et al., Sy-FAR: Symmetry-based Fair Adversarial Robustness, USENIX Security 2026, arXiv 2509.12939"
    ),
    provenance="reconstruction",
)
class SyFAR(SAT):
    """Cross-entropy on adversarial and, lightly, on clean images, plus the asymmetry of confusions in a batch."""

    reads = ("weight", "weight_adv", "weight_clean", "margin", "step")
    departures = (
        "No reproduction is claimed: the penalty is the script's, all else is SAT.",
        "The suite's attack takes the place of an occluding patch, of which the script tries every position.",
        "It trains from scratch by the suite's recipe, and tuning tries SAT's optimiser; the script fine-tunes "
        "pretrained networks with lr 0.001, a tenth of it after every seven epochs, and no weight decay.",
        "Training goes on in train mode after the attack; the script stays in eval mode from the first attack on.",
    )
    clean_share: float = hyper(0.1, source=f"{CODE}, weight of the clean cross-entropy", ge=0)
    symmetry: float = hyper(10.0, source=f"{CODE}, weight of the penalty", search=[1.0, 3.0, 10.0], ge=0)
    smoothing: float = hyper(0.1, source=f"{CODE}, added to the denominator", gt=0)

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """clean_share CE(clean) + CE(adv) + symmetry * penalty."""
        clean, adv = model(batch.x), model(attacked.x_adv)
        total = self.clean_share * self.mean(cross_entropy(clean, batch.y), batch.y, "weight_clean")
        total = total + self.mean(cross_entropy(adv, batch.y), batch.y, "weight_adv")
        total = total + self.symmetry * symmetry_penalty(adv.float(), batch.y, self.smoothing)
        return StepOutput(total, logits_adv=adv, logits_clean=clean)
