"""The per-element mathematics of attacks and class-wise sums in plain torch: what faster kernels must reproduce."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor

__all__ = [
    "class_counts",
    "class_sums",
    "philox4x32",
    "philox_normal",
    "philox_uniform",
    "projected_l2_step",
    "projected_sign_step",
]

Word = TypeVar("Word", int, Tensor)
Words = tuple[Word, Word, Word, Word]

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_TINY = 1e-30


def philox4x32(counter: Words[int] | Words[Tensor], key: tuple[int, int]) -> tuple[Tensor | int, ...]:
    """Ten rounds of Philox4x32, a counter-based random function: 128 bits and a 64-bit key in, 128 random bits out.

    Each counter word is an integer or an int64 tensor with values below 2^32; the words broadcast against each other.
    The four results are words below 2^32 in the same form. Source: Salmon et al., "Parallel Random Numbers: As Easy as
    1, 2, 3", SC 2011.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # An int64 product wraps modulo 2^64, so that after masking both of its halves are exact.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) ^ c1 ^ k0) & _WORD, p1 & _WORD, ((p0 >> 32) ^ c3 ^ k1) & _WORD, p0 & _WORD
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


def philox_uniform(seed: int, index: Tensor, numel: int, *, stream: int = 0, restart: int = 0) -> Tensor:
    """Return float32 [B, numel] in [0, 1): row b depends on (seed, index[b], stream, restart) and nothing else.

    `index` is int64 [B] with values in [0, 2^32). The bits are the same on every device and for every batch around an
    image. A row of a smaller `numel` is the beginning of the row of a larger one.
    """
    block = torch.arange(-(-numel // 4), device=index.device)[None, :]
    counter = (block, index[:, None] & _WORD, stream & _WORD, restart & _WORD)
    words = philox4x32(counter, (seed & _WORD, (seed >> 32) & _WORD))  # type: ignore[arg-type]
    bits = torch.stack(words, dim=-1).flatten(1)[:, :numel]  # type: ignore[arg-type]
    return (bits >> 8).to(torch.float32) * 2.0**-24


def philox_normal(seed: int, index: Tensor, numel: int, *, stream: int = 0, restart: int = 0) -> Tensor:
    """Return float32 [B, numel] of standard normal numbers: Box-Muller on `philox_uniform` with the same arguments.

    Devices agree up to the rounding of their logarithm and cosine. Draw normals and uniforms from different streams:
    within one they are functions of the same bits.
    """
    pairs = philox_uniform(seed, index, numel + numel % 2, stream=stream, restart=restart).reshape(len(index), -1, 2)
    radius = torch.sqrt(-2.0 * torch.log1p(-pairs[..., 0]))
    angle = 2.0 * math.pi * pairs[..., 1]
    return torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1).flatten(1)[:, :numel]


def projected_sign_step(x_adv: Tensor, grad: Tensor, x: Tensor, eps: float | Tensor, step: float | Tensor) -> Tensor:
    """Return clip_[0,1](clip_[x - eps, x + eps](x_adv + step * sign(grad))): one ascent step of Linf PGD.

    `x_adv`, `grad` and `x` are float [B, ...]; `eps` and `step` are floats, or float [B] with a value for each sample.
    """
    eps, step = _per_sample(eps, x), _per_sample(step, x)
    return (x_adv + step * grad.sign()).clamp(x - eps, x + eps).clamp_(0.0, 1.0)


def projected_l2_step(x_adv: Tensor, grad: Tensor, x: Tensor, eps: float | Tensor, step: float | Tensor) -> Tensor:
    """Return x_adv moved by `step` along grad / ||grad||_2, projected on the L2 ball around x and clipped to [0, 1].

    Shapes as in `projected_sign_step`. A zero gradient is a zero step. Clipping moves no pixel away from x, which lies
    in [0, 1], so that the result stays in the ball.
    """
    eps, step = _per_sample(eps, x), _per_sample(step, x)
    delta = x_adv + step * _unit(grad) - x
    shrink = (eps / _norm(delta)).clamp(max=1.0)
    return (x + shrink * delta).clamp_(0.0, 1.0)


def class_sums(values: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return float32 [C] or [C, K]: `values` ([B] or [B, K]) summed over the samples of each class in y int64 [B]."""
    values = values.to(torch.float32)
    return values.new_zeros(num_classes, *values.shape[1:]).index_add_(0, y, values)


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
