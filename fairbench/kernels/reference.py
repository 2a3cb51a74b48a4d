"""The definitions of the kernels in plain torch: the per-element arithmetic of attacks, and sums by class."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "apgd_sign_step",
    "class_counts",
    "class_sums",
    "cw_margin",
    "dlr_margin",
    "philox4x32",
    "philox_normal",
    "philox_uniform",
    "projected_l2_step",
    "projected_sign_step",
    "tempered_kl",
]

Words = tuple[Any, Any, Any, Any]

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_TINY = 1e-30
_SPREAD = 1e-12


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Ten rounds of Philox4x32, a counter-based random function: 128 bits and a 64-bit key in, 128 random bits out.

    Each counter word is an integer, or an int64 tensor or array, with values below 2^32; words broadcast against each
    other. The four results are words below 2^32 in the same form. Source: Salmon et al., "Parallel Random Numbers: As
    Easy as 1, 2, 3", SC 2011.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # An int64 product wraps modulo 2^64, so that both of its halves are exact after masking.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) ^ c1 ^ k0) & _WORD, p1 & _WORD, ((p0 >> 32) ^ c3 ^ k1) & _WORD, p0 & _WORD
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


def philox_uniform(seed: int, index: Tensor, numel: int, *, stream: int = 0, restart: int = 0) -> Tensor:
    """Return float32 [B, numel] in [0, 1): row b depends on (seed, index[b], stream, restart) only.

    `index` is int64 [B] with values in [0, 2^32). The bits are the same on every device and in every batch. The row of
    a smaller `numel` is the beginning of the row of a larger one.
    """
    key, blocks, rest = (seed & _WORD, (seed >> 32) & _WORD), -(-numel // 4), (stream & _WORD, restart & _WORD)
    if index.device.type == "cpu":  # on small arrays numpy's calls cost less than torch's
        numbers: Any = np.from_dlpack(index)
        drawn = philox4x32((np.arange(blocks)[None, :], numbers[:, None] & _WORD, *rest), key)
        words = torch.from_numpy(np.stack(drawn, axis=-1))
    else:
        block = torch.arange(blocks, device=index.device)[None, :]
        words = torch.stack(philox4x32((block, index[:, None] & _WORD, *rest), key), dim=-1)
    return (words.flatten(1)[:, :numel] >> 8).to(torch.float32) * 2.0**-24


def philox_normal(seed: int, index: Tensor, numel: int, *, stream: int = 0, restart: int = 0) -> Tensor:
    """Return float32 [B, numel] of standard normal numbers: Box-Muller on `philox_uniform` with the same arguments.

    Devices agree up to the rounding of their logarithm and cosine. Draw normal and uniform numbers from different
    streams, because both are functions of the same bits.
    """
    pairs = philox_uniform(seed, index, numel + numel % 2, stream=stream, restart=restart).reshape(len(index), -1, 2)
    radius = torch.sqrt(-2.0 * torch.log1p(-pairs[..., 0]))
    angle = 2.0 * math.pi * pairs[..., 1]
    return torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1).flatten(1)[:, :numel]


def projected_sign_step(
    x_adv: Tensor, grad: Tensor, x: Tensor, eps: float | Tensor, step: float | Tensor, *, out: Tensor | None = None
) -> Tensor:
    """Return clip_[0,1](clip_[x - eps, x + eps](x_adv + step * sign(grad))): one ascent step of Linf PGD.

    `x_adv`, `grad` and `x` are float [B, ...]; `eps` and `step` are floats, or float [B] with a value for each sample.
    With `out`, which may be `x_adv`, the result is written there.
    """
    eps, step = _per_sample(eps, x), _per_sample(step, x)
    moved = grad.sign().mul_(step).add_(x_adv).clamp_(x - eps, x + eps)  # in place: memory is what a step costs
    return moved.clamp_(0.0, 1.0) if out is None else torch.clamp(moved, 0.0, 1.0, out=out)


def projected_l2_step(
    x_adv: Tensor, grad: Tensor, x: Tensor, eps: float | Tensor, step: float | Tensor, *, out: Tensor | None = None
) -> Tensor:
    """Return x_adv moved by `step` along grad / ||grad||_2, projected on the L2 ball around x and clipped to [0, 1].

    Shapes as in `projected_sign_step`. A zero gradient is a zero step. Clipping moves no pixel away from x, which lies
    in [0, 1], so that the result stays in the ball. `out` as in `projected_sign_step`.
    """
    eps, step = _per_sample(eps, x), _per_sample(step, x)
    delta = x_adv + step * _unit(grad) - x
    shrink = (eps / _norm(delta)).clamp(max=1.0)
    moved = x + shrink * delta
    return moved.clamp_(0.0, 1.0) if out is None else torch.clamp(moved, 0.0, 1.0, out=out)


def apgd_sign_step(
    here: Tensor,
    before: Tensor,
    grad: Tensor,
    x: Tensor,
    eps: float | Tensor,
    step: float | Tensor,
    *,
    momentum: float = 0.75,
) -> Tensor:
    """Return the next iterate of Linf APGD: the share `momentum` of the projected sign step, plus the rest of the last
    movement.

    z = P(here + step sign(grad)); P(here + momentum (z - here) + (1 - momentum) (here - before)), with P the projection
    on the ball around x and the box. Shapes as in `projected_sign_step`. Source: Croce and Hein, "Reliable evaluation
    of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020, algorithm 1.
    """
    eps, step = _per_sample(eps, x), _per_sample(step, x)
    target = (here + step * grad.sign()).clamp(x - eps, x + eps).clamp_(0.0, 1.0)
    mixed = momentum * (target - here) + (1.0 - momentum) * (here - before)
    return (here + mixed).clamp(x - eps, x + eps).clamp_(0.0, 1.0)


def tempered_kl(teacher: Tensor, logits: Tensor, temperature: Tensor) -> Tensor:
    """Return float32 [B]: KL(softmax(teacher / temperature) || softmax(logits)) in nats, summed over the classes.

    `teacher` and `logits` are float [B, C], `temperature` float [B], one for each sample.
    """
    target = torch.softmax(teacher.float() / temperature.unsqueeze(1), dim=1)
    positive = target.clamp(min=_TINY)  # the gradient of t log t with respect to t is not finite at 0
    return F.kl_div(F.log_softmax(logits.float(), dim=1), positive, reduction="none").sum(dim=1)


def cw_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the largest wrong logit minus the true one as [B], from logits [B, C] and labels int64 [B]."""
    true = logits.gather(1, y.unsqueeze(1))
    wrong = logits.scatter(1, y.unsqueeze(1), -torch.inf).amax(1)
    return wrong - true.squeeze(1)


def dlr_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return `cw_margin` over z_1 - z_3, the largest logit minus the third, as [B]; below three classes, the margin."""
    if logits.shape[1] < 3:
        return cw_margin(logits, y)
    top = logits.topk(3, dim=1).values
    return cw_margin(logits, y) / (top[:, 0] - top[:, 2] + _SPREAD)


def class_sums(values: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return [C] or [C, K]: `values` ([B] or [B, K]) summed over the samples of each class in y int64 [B].

    The sums are float32, or float64 for float64 values, under autocast and with TF32 too. Repeated calls give the same
    bits: on CUDA `index_add_` adds in a varying order, a sum along a dimension does not.
    """
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    if values.is_cuda:
        return _masked_sums(values, y, num_classes)
    return values.new_zeros(num_classes, *values.shape[1:]).index_add_(0, y, values)


def _masked_sums(values: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """The sums of `class_sums`, each along one dimension of [B,C] or [B,C,K]."""
    member = y.unsqueeze(1) == torch.arange(num_classes, device=y.device)
    member = member.view(*member.shape, *[1] * (values.dim() - 1))
    return torch.where(member, values.unsqueeze(1), 0.0).sum(0)


def class_counts(y: Tensor, num_classes: int) -> Tensor:
    """Return int64 [C]: how many of the labels y int64 [B] fall in each class, with no host sync."""
    return y.new_zeros(num_classes).index_add_(0, y, torch.ones_like(y))


def _per_sample(value: float | Tensor, x: Tensor) -> float | Tensor:
    return _columns(value, x) if isinstance(value, Tensor) else value


def _unit(grad: Tensor) -> Tensor:
    # Confident models have gradients near 1e-25, whose squares underflow: scale by the largest entry first.
    scaled = grad / _columns(grad.flatten(1).abs().amax(1).clamp(min=_TINY), grad)
    return scaled / _norm(scaled)


def _norm(x: Tensor) -> Tensor:
    return _columns(x.flatten(1).norm(dim=1).clamp(min=_TINY), x)


def _columns(value: Tensor, x: Tensor) -> Tensor:
    return value.reshape(-1, *[1] * (x.dim() - 1))
