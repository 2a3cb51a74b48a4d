"""The figures of a model's page beyond its verdicts: robust accuracy by eps, targeted flow, and broken images.

They come from PGD with 20 steps, in L1 from APGD, on the first images of every class, so that they cost little beside
an evaluation. They do not enter any verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from fairbench.attacks import Attack, Ball, ImageRNG, resolve
from fairbench.attacks.pgd import Norm
from fairbench.attacks.projections import diameter
from fairbench.attacks.targeted import reached, targeted_flow
from fairbench.data.split import first_of_each_class
from fairbench.evaluation.edge import at_edge, logits
from fairbench.evaluation.pixels import Pixels, as_input, as_labels, as_tensor
from fairbench.evaluation.victim import held
from fairbench.statistics.metrics import class_accuracy

__all__ = ["BrokenImage", "Exhibits", "exhibit"]

ExhibitProgress = Callable[[str, int, int], None]

# Multiples of the given eps; 0 is the clean image.
_SCALE = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
_SUBSET = 200
_TARGETED = 100
_MOST_TARGETS = 20
_MOST_PICTURES = 3
_BATCH = 50


@dataclass(frozen=True, eq=False)
class BrokenImage:
    """A correctly classified image and a misclassified one in the ball around it: uint8 and float32 [H,W,C]."""

    index: int
    label: int
    predicted: int
    original: NDArray[np.float32]
    adversarial: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Exhibits:
    """Accuracy [E,C] at every eps [E], the share [C,C] of each class that reaches each target, and broken images.

    `attack` produced the curve and the broken images, from `images` images. `flow` comes from `flow_images` images; it
    is None with too many classes or in another norm than Linf and L2.
    """

    attack: str
    eps: tuple[float, ...]
    curve: NDArray[np.float64]
    images: int
    flow: NDArray[np.float64] | None
    flow_images: int
    broken: tuple[BrokenImage, ...]


def exhibit(
    model: nn.Module,
    images: Pixels,
    labels: ArrayLike,
    ball: Ball,
    *,
    device: str | torch.device | None = None,
    seed: int = 0,
    progress: ExhibitProgress = lambda stage, done, total: None,
) -> Exhibits:
    """Compute the exhibits of a model on a class-balanced subset; images, labels and errors as for `attack_verdicts`.

    `progress` is called with the name of a stage, the number of steps done and their total.
    """
    pixels, truth = as_tensor(images), as_labels(labels, len(images))
    chosen = first_of_each_class(truth, _SUBSET)
    with held(model, device) as where:
        model, num_classes = at_edge(model, as_input(pixels[:2], where))
        look = _Look(model, pixels, truth, where, seed)
        text = "apgd-ce-20" if ball.norm == "L1" else "pgd-20:rel_step=0.25"
        rows: list[NDArray[np.float64]] = []
        broken: tuple[BrokenImage, ...] = ()
        most = diameter(ball.norm, pixels[0].numel())
        eps = tuple(min(scale * ball.eps, most) for scale in _SCALE)
        for number, (scale, radius) in enumerate(zip(_SCALE, eps, strict=True)):
            attack = resolve(text if radius > 0 else "clean", Ball(ball.norm, radius))
            x_adv, predicted = look.under(attack, chosen)
            rows.append(class_accuracy(truth[chosen], predicted, num_classes))
            if scale == 0:
                right = predicted == truth[chosen]
            elif scale == 1:
                broken = look.broken(chosen, x_adv, predicted, right)
            progress("robustness by eps", number + 1, len(_SCALE))
        flow, few = None, first_of_each_class(truth, _TARGETED)
        if num_classes <= _MOST_TARGETS and ball.norm != "L1":
            flow = look.flow(few, ball, progress)
    return Exhibits(text, eps, np.array(rows), len(chosen), flow, len(few), broken)


@dataclass(frozen=True, eq=False)
class _Look:
    """A model in evaluation mode with its images, on subsets of which the exhibits are computed."""

    model: nn.Module
    pixels: Tensor
    truth: NDArray[np.int64]
    device: torch.device
    seed: int

    def batch(self, index: NDArray[np.int64]) -> tuple[Tensor, Tensor, ImageRNG]:
        x = as_input(self.pixels[torch.from_numpy(index).to(self.pixels.device)], self.device)
        y = torch.from_numpy(self.truth[index]).to(self.device)
        return x, y, ImageRNG(self.seed, torch.from_numpy(index).to(self.device))

    def under(self, attack: Attack, index: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int64]]:
        """Return adversarial images, on the CPU, and the class that the plain model predicts for each."""
        images, predicted = [], []
        for part in np.split(index, range(_BATCH, len(index), _BATCH)):
            x, y, rng = self.batch(part)
            x_adv = attack.craft(self.model, x, y, rng)
            images.append(x_adv.cpu())
            predicted.append(logits(self.model, x_adv).argmax(1).cpu().numpy())
        return torch.cat(images), np.concatenate(predicted)

    def broken(
        self, index: NDArray[np.int64], x_adv: Tensor, predicted: NDArray[np.int64], right: NDArray[np.bool_]
    ) -> tuple[BrokenImage, ...]:
        """Return the first few broken images of every class, by class."""
        found = []
        for label in np.unique(self.truth[index]):
            where = np.flatnonzero(right & (self.truth[index] == label) & (predicted != label))[:_MOST_PICTURES]
            for place in where:
                original = as_input(self.pixels[index[place], None], torch.device("cpu"))[0]
                pair = (picture.permute(1, 2, 0).numpy() for picture in (original, x_adv[place]))
                found.append(BrokenImage(int(index[place]), int(label), int(predicted[place]), *pair))
        return tuple(found)

    def flow(self, index: NDArray[np.int64], ball: Ball, progress: ExhibitProgress) -> NDArray[np.float64]:
        """Return the flow matrix [C,C] of the images at the positions `index`."""
        hits, parts = [], np.split(index, range(_BATCH, len(index), _BATCH))
        for number, part in enumerate(parts):
            x, y, rng = self.batch(part)
            norm: Norm = "L2" if ball.norm == "L2" else "Linf"
            hits.append(reached(self.model, x, y, eps=ball.eps, norm=norm, steps=20, step=ball.eps / 4, rng=rng).cpu())
            progress("flow between classes", number + 1, len(parts))
        return targeted_flow(torch.from_numpy(self.truth[index]), torch.cat(hits)).numpy()
