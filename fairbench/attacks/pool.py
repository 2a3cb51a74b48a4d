"""The images that an attack is still working on, and the results of the others."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Pool", "misclassified", "spacing"]

# Steps between two releases where one is a sync with the host that holds up a device of its own.
_SPACING = 10


def spacing(device: torch.device) -> int:
    """Return after how many steps broken images leave the batch of a plain PGD: every step on a CPU, else every tenth.

    The result is the same, because random numbers belong to an image and a pool keeps its first misclassified iterate.
    """
    return 1 if device.type == "cpu" else _SPACING


class Pool:
    """Keeps the first misclassified iterate of every image, and lets broken images leave the batch.

    `result` float32 [N,...] holds the given images until they are replaced; `alive` int64 [A] the positions of the
    images in the batch; `hit` [A,...] and `broken` bool [A] the iterates found since the last release. `look` never
    syncs with the host, `release` does once.
    """

    def __init__(self, x: Tensor) -> None:
        self.result = x.clone()
        self.alive = torch.arange(len(x), device=x.device)
        self.hit, self.broken = x, _none(x)

    def __len__(self) -> int:
        return len(self.alive)

    def look(self, x_adv: Tensor, broken: Tensor) -> None:
        """Record iterates [A,...], of which those in bool [A] are broken; the first one of an image is kept."""
        fresh = broken & ~self.broken
        self.hit = torch.where(fresh.view(-1, *[1] * (x_adv.dim() - 1)), x_adv, self.hit)
        self.broken |= broken

    def release(self, rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Remove broken images from the batch; return the rows, tensors [A,...] each, of the remaining ones."""
        keep = (~self.broken).nonzero().squeeze(1)
        if len(keep) == len(self.alive):
            return rows
        gone = self.broken.nonzero().squeeze(1)
        self.result[self.alive[gone]] = self.hit[gone]
        self.alive = self.alive[keep]
        self.hit, self.broken = self.hit[keep], _none(keep)
        return tuple(row[keep] for row in rows)

    def finish(self, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Give unbroken images their x_adv [A,...]; return results [N,...], and bool [N]: which are broken."""
        (x_adv,) = self.release((x_adv,))
        self.result[self.alive] = x_adv
        broken = torch.ones(len(self.result), dtype=torch.bool, device=x_adv.device)
        broken[self.alive] = False
        return self.result, broken


def misclassified(logits: Tensor, aim: Tensor) -> Tensor:
    """Return bool [B]: whether the argmax of logits [B,C] differs from the label, aim [B] or its first column."""
    return logits.argmax(1) != (aim if aim.dim() == 1 else aim[:, 0])


def _none(rows: Tensor) -> Tensor:
    return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
