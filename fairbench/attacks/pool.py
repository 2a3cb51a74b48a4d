"""The images that an attack is still working on, and what it has found for the others."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Pool", "misclassified"]


class Pool:
    """Keeps the first misclassified iterate of every image and says which images may leave the batch.

    `result` is float32 [N,...], the images as they were given until something better is known; `alive` int64 [A] the
    positions of those in the batch; `hit` [A,...] and `broken` bool [A] what the batch has found since images were last
    let go. Looking at iterates never syncs with the host, letting images go does, once.
    """

    def __init__(self, x: Tensor) -> None:
        self.result = x.clone()
        self.alive = torch.arange(len(x), device=x.device)
        self.hit, self.broken = x, _none(x)

    def __len__(self) -> int:
        return len(self.alive)

    def look(self, x_adv: Tensor, broken: Tensor) -> None:
        """Note iterates [A,...] of which bool [A] are broken; the first one of an image counts."""
        fresh = broken & ~self.broken
        self.hit = torch.where(fresh.view(-1, *[1] * (x_adv.dim() - 1)), x_adv, self.hit)
        self.broken |= broken

    def release(self, rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Let broken images go; return the rows, tensors [A,...] each, of those that stay."""
        keep = (~self.broken).nonzero().squeeze(1)
        if len(keep) == len(self.alive):
            return rows
        gone = self.broken.nonzero().squeeze(1)
        self.result[self.alive[gone]] = self.hit[gone]
        self.alive = self.alive[keep]
        self.hit, self.broken = self.hit[keep], _none(keep)
        return tuple(row[keep] for row in rows)

    def finish(self, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Give those that never broke their x_adv [A,...]; return results [N,...] and bool [N], which are broken."""
        (x_adv,) = self.release((x_adv,))
        self.result[self.alive] = x_adv
        broken = torch.ones(len(self.result), dtype=torch.bool, device=x_adv.device)
        broken[self.alive] = False
        return self.result, broken


def misclassified(logits: Tensor, aim: Tensor) -> Tensor:
    """Return bool [B]: whether logits [B,C] are highest elsewhere than at the label, aim [B] or its first column."""
    return logits.argmax(1) != (aim if aim.dim() == 1 else aim[:, 0])


def _none(rows: Tensor) -> Tensor:
    return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
