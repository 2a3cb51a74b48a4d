"""The method split under attack, for methods that steer by held-out data between epochs."""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fairbench import distributed
from fairbench.attacks import ImageRNG, frozen, inner_maximisation
from fairbench.errors import InvalidInput
from fairbench.kernels import class_counts, class_sums
from fairbench.losses import cross_entropy, kl_divergence
from fairbench.method.context import Context

__all__ = ["AttackedSplit", "attacked_split", "class_means"]


class AttackedSplit(NamedTuple):
    """Logits float32 [N,C] of the method split's clean and adversarial images, and labels y int64 [N]."""

    clean: Tensor
    adv: Tensor
    y: Tensor


def attacked_split(context: Context, *, steps: int, objective: Literal["ce", "kl"] = "ce") -> AttackedSplit:
    """Attack the method split with PGD at the recipe's step size and the model in eval mode, batch by batch.

    "ce" ascends the cross-entropy from a uniform start clipped to [0,1] (FRL, CFA); "kl" ascends the divergence from
    the clean prediction, from Gaussian noise of standard deviation 0.001 without clipping (WAT). Each rank attacks its
    share of the images. Raises InvalidInput for a run without a method split.
    """
    split = context.method_split
    if split is None:
        raise InvalidInput('no method split is held out: add "method_split" to `needs`, and data.method_per_class')
    count = len(split.y)
    mine = distributed.rows(count) if count >= distributed.world() else slice(None)
    eps, step = context.threat.eps, context.threat.eps * context.recipe.attack_rel_step
    parts: list[tuple[Tensor, Tensor]] = []
    with frozen(context.model) as model:
        batches = (torch.split(part[mine], context.recipe.batch_size) for part in (split.x, split.y, split.index))
        for x, y, index in zip(*batches, strict=True):
            rng = ImageRNG(context.seed, index, stream=context.epoch + 1)
            with torch.no_grad():
                clean = model(x).float()
            if objective == "ce":
                loss, noise = partial(cross_entropy, y=y), eps * (2 * rng.uniform(x.shape) - 1)
                start = (x + noise).clamp(0, 1)
            else:
                loss, start = partial(kl_divergence, clean.softmax(dim=1)), x + 0.001 * rng.normal(x.shape)
            x_adv, _ = inner_maximisation(model, x, loss=loss, eps=eps, step=step, steps=steps, start=start)
            with torch.no_grad():
                parts.append((clean, model(x_adv).float()))
    clean, adv = (torch.cat(part) for part in zip(*parts, strict=True))
    if distributed.world() > 1 and mine != slice(None):
        clean, adv = distributed.gather_rows(clean, count), distributed.gather_rows(adv, count)
    return AttackedSplit(clean, adv, split.y)


def class_means(values: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return [C] or [C, K]: the mean of values [N] or [N, K] over each class of y int64 [N]; 0 for an absent class.

    Means are float32, or float64 for float64 values, under autocast and with TF32 too.
    """
    counts = class_counts(y, num_classes).clamp(min=1)
    return class_sums(values, y, num_classes) / counts.view(-1, *[1] * (values.dim() - 1))
