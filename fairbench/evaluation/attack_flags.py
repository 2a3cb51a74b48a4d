"""The flags that need attacks: PGD at three radii at once, more steps, a single step, and random search.

Attacks craft images with the copy of the model that the evaluation made. An image on which an attack fails or leaves
its ball counts as not attacked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fairbench.attacks import ImageRNG, Threat, craft_by_rule
from fairbench.attacks.apgd import apgd_ce
from fairbench.attacks.pgd import Norm, climb, uniform_start
from fairbench.attacks.projections import AnyNorm, ascent_step, columns, distance, rounding
from fairbench.attacks.square import square
from fairbench.errors import InvalidInput
from fairbench.evaluation.edge import logits
from fairbench.evaluation.verdicts import Flag

__all__ = ["QUERIES", "Subset", "attack_flags", "share_flag", "true_share"]

QUERIES = 50
_STEPS = 10
_OVERSHOOT = 1e-5


class Subset(NamedTuple):
    """A model in evaluation mode, the images x [n,C,H,W] with labels y [n] of its checks, and the threat."""

    model: nn.Module
    x: Tensor
    y: Tensor
    threat: Threat
    seed: int


def share_flag(value: float, n: int) -> Flag:
    """Return the flag of a share of n images: red above the larger of 0.2 points and 2 images."""
    return Flag(round(max(0.0, float(value)), 4), bool(value > max(0.002, 2 / n) + 1e-9))


def attack_flags(subset: Subset, clean: Tensor, gradient: Tensor | None) -> dict[str, Flag]:
    """Return the flags that compare accuracies under attacks.

    `clean` bool [n] marks the images that the model classifies correctly; `gradient` [n,C,H,W] is that of the
    cross-entropy at the images, None if there is none.
    """
    threat, n, attacks = subset.threat, len(subset.y), _Attacks(subset, clean)
    grey = float(distance(torch.full((1, subset.x[0].numel()), 0.5), threat.norm))
    radii = (threat.eps, threat.eps / 2, max(grey, threat.eps))
    if threat.norm == "L1":
        ten, half, large = (true_share(attacks.apgd(steps=_STEPS, eps=eps)) for eps in radii)
        one_step, standing = true_share(attacks.apgd(steps=1, eps=threat.eps)), attacks.apgd(steps=20, eps=threat.eps)
    else:
        first, *others = attacks.ascents(radii)
        standing = attacks.further(first)
        ten, half, large = (true_share(right) for _, right in (first, *others))
        one_step = true_share(attacks.one_step(gradient))
    # Square can win only where PGD did not break. The others are attacked only if they could make the flag red.
    wins = float((standing & ~attacks.searched(standing)).sum()) / n
    if share_flag(wins, n).red:
        wins -= float((~standing & attacks.searched(~standing)).sum()) / n
    constant = int(subset.y.bincount().max()) / n
    return {
        "not-monotone": share_flag(max(ten - half, large - ten), n),
        "survives-large-eps": share_flag(large - constant, n),
        "steps-help-defender": share_flag(max(ten - one_step, true_share(standing) - ten), n),
        "black-box-wins": share_flag(wins, n),
        "outside-ball": Flag(round(max(attacks.overshoot), 6), max(attacks.overshoot) > _OVERSHOOT),
    }


def true_share(right: Tensor) -> float:
    """Return the share of true entries of bool [n], a double: a float32 mean would round two of 60 to more than two."""
    return int(right.sum()) / len(right)


@dataclass(frozen=True)
class _Attacks:
    """Attacks on a subset. `overshoot` collects how far each attack leaves its ball, in units of the radius."""

    subset: Subset
    clean: Tensor
    overshoot: list[float] = field(default_factory=lambda: [0.0])

    def ascents(self, radii: tuple[float, ...]) -> list[tuple[Tensor, Tensor]]:
        """PGD at several radii in one batch: for each radius the images [n,C,H,W], and which are right, bool [n]."""
        _, x, y, threat, seed = self.subset
        n, norm = len(y), _norm(threat)
        every = torch.arange(n, device=x.device)
        start = torch.cat([uniform_start(x, eps, norm, ImageRNG(seed, every)) for eps in radii])
        eps = torch.tensor(radii, device=x.device).repeat_interleave(n)
        found, right = self._attacked(
            _from(start, eps, norm), eps, every.repeat(len(radii)), number=torch.arange(len(eps), device=x.device)
        )
        return list(zip(torch.split(found, n), torch.split(right, n), strict=True))

    def further(self, short: tuple[Tensor, Tensor]) -> Tensor:
        """Continue PGD from its result with as many steps: which images are then right, bool [n]."""
        start, standing = short
        eps = torch.full((len(start),), self.subset.threat.eps, device=start.device)
        return self._among(standing, _from(start, eps, _norm(self.subset.threat)))

    def one_step(self, gradient: Tensor | None) -> Tensor:
        """FGSM: which images are right after one step of eps along the gradient at the images, bool [n]."""
        threat = self.subset.threat
        if gradient is None:
            return self.clean

        def attack(model: nn.Module, x: Tensor, y: Tensor, *, rng: ImageRNG) -> Tensor:
            return ascent_step(_norm(threat))(x, gradient[rng.index], x, threat.eps, threat.eps)

        return self._among(self.clean, attack)

    def apgd(self, *, steps: int, eps: float) -> Tensor:
        """APGD: which images are right after it, bool [n]."""
        every = torch.ones_like(self.clean)
        return self._among(every, partial(apgd_ce, steps=steps, eps=eps, norm=self.subset.threat.norm), eps)

    def searched(self, among: Tensor) -> Tensor:
        """Square on the images with `among` bool [n]: which of all images are then right, bool [n]."""
        threat = self.subset.threat
        attack = partial(square, eps=threat.eps, norm=threat.norm, queries=QUERIES)
        return self._among(among, attack, bf16=False)

    def _among(
        self, among: Tensor, attack: Callable[..., Tensor], eps: float | None = None, *, bf16: bool = True
    ) -> Tensor:
        """Attack the images with `among` bool [n]: which of them are right afterwards, bool [n]."""
        rows = among.nonzero().squeeze(1)
        radius = torch.full((len(rows),), self.subset.threat.eps if eps is None else eps, device=rows.device)
        right = torch.zeros_like(self.clean)
        right[rows] = self._attacked(attack, radius, rows, bf16=bf16)[1]
        return right

    def _attacked(
        self,
        attack: Callable[..., Tensor],
        eps: Tensor,
        rows: Tensor,
        *,
        number: Tensor | None = None,
        bf16: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Attack the images `rows` [B] within `eps` [B]; return adversarial images [B,C,H,W] and which are right [B].

        `number` [B], by default `rows`, are the numbers of the images for the attack's random generator.
        """
        model, x, y, _, seed = self.subset
        if not len(rows):
            return x[rows], self.clean[rows]
        rng = ImageRNG(seed, rows if number is None else number)
        try:
            return self._judged(craft_by_rule(attack, model, x[rows], y[rows], rng, bf16=bf16), eps, rows)
        except InvalidInput:  # the model has no gradient, or its logits are not finite away from its images
            return x[rows], self.clean[rows]

    def _judged(self, x_adv: Tensor, eps: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the adversarial images, with clean ones in place of those outside their ball, and which are right."""
        model, x, y, threat, _ = self.subset
        beyond = _beyond(x[rows], x_adv, eps, threat.norm)
        right = logits(model, x_adv.nan_to_num(0.5).clamp(0, 1)).argmax(1) == y[rows]
        self.overshoot.append(float(beyond.max()))
        inside = beyond <= _OVERSHOOT
        return torch.where(columns(inside, x_adv), x_adv, x[rows]), torch.where(inside, right, self.clean[rows])


def _norm(threat: Threat) -> Norm:
    return "L2" if threat.norm == "L2" else "Linf"


def _from(start: Tensor, eps: Tensor, norm: Norm) -> Callable[..., Tensor]:
    """Return PGD with steps of eps / 4 from `start` within `eps`; the numbers in its `rng` are positions in both."""

    def attack(model: nn.Module, x: Tensor, y: Tensor, *, rng: ImageRNG) -> Tensor:
        radius = eps[rng.index]
        how: dict[str, Any] = {"eps": radius, "step": radius / 4, "steps": _STEPS}
        return climb(model, x, y, start[rng.index], norm=norm, **how)

    return attack


def _beyond(x: Tensor, x_adv: Tensor, eps: Tensor, norm: AnyNorm) -> Tensor:
    """Return float32 [B]: how far images leave [0,1] or the ball, in units of its radius; 2 for NaN.

    The distance by which the rounding of pixels moves an image does not count: at small radii it is no small share.
    """
    radius = eps + rounding(norm, x[0].numel())
    outside = torch.maximum(-x_adv, x_adv - 1).flatten(1).amax(1).clamp(min=0)
    beyond = torch.maximum(outside, distance(x_adv - x, norm) - radius)
    beyond = beyond / torch.where(eps > 0, eps, torch.ones_like(eps))
    return beyond.clamp(min=0).nan_to_num(nan=2.0)
