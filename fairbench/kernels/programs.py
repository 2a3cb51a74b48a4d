"""The kernels as Triton programs, each of which computes a block of elements, a sample or a class on the device.

Arithmetic is in float32 for every type of tensor; results are rounded once, to the type `D`. Triton evaluates
annotations, so that only compile-time constants have them.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "apgd_program",
    "l2_program",
    "margin_program",
    "philox_program",
    "sign_program",
]


@triton.jit
def _between(v, low, high):
    """Clamp as torch does: NaN stays NaN, and NaN bounds give NaN."""
    v = tl.maximum(v, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(v, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _sign(v):
    return tl.where(v > 0, 1.0, 0.0) - tl.where(v < 0, 1.0, 0.0)


@triton.jit
def _of_sample(value, sample, EACH: tl.constexpr):
    """Return a scalar argument, or the sample's entry of a vector."""
    found = value
    if EACH:
        found = tl.load(value + sample).to(tl.float32)
    return found


@triton.jit
def sign_program(
    out,
    x_adv,
    grad,
    x,
    eps,
    step,
    numel,
    blocks,
    EACH_EPS: tl.constexpr,
    EACH_STEP: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A block of one sample: reads every tensor once and writes `out`, which may be `x_adv`, once."""
    sample, inside = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    mask, at = inside < numel, sample * numel + inside
    radius = _of_sample(eps, sample, EACH_EPS)
    length = _of_sample(step, sample, EACH_STEP)
    here = tl.load(x_adv + at, mask=mask).to(tl.float32)
    centre = tl.load(x + at, mask=mask).to(tl.float32)
    slope = tl.load(grad + at, mask=mask).to(tl.float32)
    moved = here + length * _sign(slope)
    moved = _between(moved, centre - radius, centre + radius)
    tl.store(out + at, _between(moved, 0.0, 1.0).to(D), mask=mask)


@triton.jit
def apgd_program(
    out,
    here,
    before,
    grad,
    x,
    eps,
    step,
    momentum,
    numel,
    blocks,
    EACH_EPS: tl.constexpr,
    EACH_STEP: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A block of one sample in APGD's step: the projected sign step, mixed with the last movement and projected."""
    sample, inside = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    mask, at = inside < numel, sample * numel + inside
    radius = _of_sample(eps, sample, EACH_EPS)
    length = _of_sample(step, sample, EACH_STEP)
    now = tl.load(here + at, mask=mask).to(tl.float32)
    last = tl.load(before + at, mask=mask).to(tl.float32)
    centre = tl.load(x + at, mask=mask).to(tl.float32)
    slope = tl.load(grad + at, mask=mask).to(tl.float32)
    low, high = centre - radius, centre + radius
    target = now + length * _sign(slope)
    target = _between(_between(target, low, high), 0.0, 1.0)
    towards = momentum * (target - now)
    onwards = (1.0 - momentum) * (now - last)
    moved = now + (towards + onwards)
    tl.store(out + at, _between(_between(moved, low, high), 0.0, 1.0).to(D), mask=mask)


@triton.jit
def l2_program(
    out,
    x_adv,
    grad,
    x,
    eps,
    step,
    numel,
    EACH_EPS: tl.constexpr,
    EACH_STEP: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One sample: three sweeps find the steepest entry, the gradient's norm and the distance; a fourth writes."""
    sample = tl.program_id(0).to(tl.int64)
    radius = _of_sample(eps, sample, EACH_EPS)
    length = _of_sample(step, sample, EACH_STEP)
    row, steepest = sample * numel, tl.zeros((BLOCK,), tl.float32)
    for start in range(0, numel, BLOCK):
        inside = start + tl.arange(0, BLOCK)
        slope = tl.load(grad + row + inside, mask=inside < numel, other=0.0).to(tl.float32)
        steepest = tl.maximum(steepest, tl.abs(slope), propagate_nan=tl.PropagateNan.ALL)
    unit = tl.maximum(tl.max(steepest, 0), 1e-30)
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, numel, BLOCK):
        inside = start + tl.arange(0, BLOCK)
        slope = tl.load(grad + row + inside, mask=inside < numel, other=0.0).to(tl.float32) / unit
        squares += slope * slope
    norm = tl.maximum(tl.sqrt(tl.sum(squares, 0)), 1e-30, propagate_nan=tl.PropagateNan.ALL)
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, numel, BLOCK):
        inside = start + tl.arange(0, BLOCK)
        slope = tl.load(grad + row + inside, mask=inside < numel, other=0.0).to(tl.float32) / unit / norm
        here = tl.load(x_adv + row + inside, mask=inside < numel, other=0.0).to(tl.float32)
        centre = tl.load(x + row + inside, mask=inside < numel, other=0.0).to(tl.float32)
        delta = here + length * slope - centre
        squares += delta * delta
    distance = tl.maximum(tl.sqrt(tl.sum(squares, 0)), 1e-30, propagate_nan=tl.PropagateNan.ALL)
    shrink = tl.minimum(radius / distance, 1.0, propagate_nan=tl.PropagateNan.ALL)
    for start in range(0, numel, BLOCK):
        inside = start + tl.arange(0, BLOCK)
        slope = tl.load(grad + row + inside, mask=inside < numel, other=0.0).to(tl.float32) / unit / norm
        here = tl.load(x_adv + row + inside, mask=inside < numel, other=0.0).to(tl.float32)
        centre = tl.load(x + row + inside, mask=inside < numel, other=0.0).to(tl.float32)
        moved = centre + shrink * (here + length * slope - centre)
        tl.store(out + row + inside, _between(moved, 0.0, 1.0).to(D), mask=inside < numel)


@triton.jit(do_not_specialize=["key0", "key1", "stream", "restart"])
def philox_program(
    out,
    index,
    key0,
    key1,
    stream,
    restart,
    numel,
    blocks,
    NORMAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Four numbers of a row for each counter of a block: uniform numbers, or two pairs of normal ones."""
    row, counter = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    zero = tl.zeros((BLOCK,), tl.uint32)
    c0, c1 = counter.to(tl.uint32), zero + tl.load(index + row).to(tl.uint32)
    c2, c3 = zero + stream.to(tl.uint32), zero + restart.to(tl.uint32)
    k0, k1 = zero + key0.to(tl.uint32), zero + key1.to(tl.uint32)
    m0, m1 = zero + 0xD2511F53, zero + 0xCD9E8D57
    for _ in tl.static_range(10):
        high0, low0, high1, low1 = tl.umulhi(c0, m0), c0 * m0, tl.umulhi(c2, m1), c2 * m1
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    a, b = (c0 >> 8).to(tl.float32) * 5.9604644775390625e-08, (c1 >> 8).to(tl.float32) * 5.9604644775390625e-08
    c, d = (c2 >> 8).to(tl.float32) * 5.9604644775390625e-08, (c3 >> 8).to(tl.float32) * 5.9604644775390625e-08
    if NORMAL:
        # 1 - u is exact for multiples of 2^-24, so that this is log1p(-u)
        first, second = tl.sqrt(tl.abs(2.0 * tl.log(1.0 - a))), tl.sqrt(tl.abs(2.0 * tl.log(1.0 - c)))
        angle, other = 6.283185307179586 * b, 6.283185307179586 * d
        a, b, c, d = first * tl.cos(angle), first * tl.sin(angle), second * tl.cos(other), second * tl.sin(other)
    inside = 4 * counter
    at = out + row * numel + inside
    tl.store(at, a, mask=inside < numel)
    tl.store(at + 1, b, mask=inside + 1 < numel)
    tl.store(at + 2, c, mask=inside + 2 < numel)
    tl.store(at + 3, d, mask=inside + 3 < numel)


@triton.jit
def margin_program(
    out,
    slope,
    logits,
    y,
    classes,
    stride,
    RATIO: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One sample: the best wrong logit minus the true one, with RATIO divided by z_1 - z_3, and its slope in each
    logit.
    """
    sample, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    mask, label = column < classes, tl.load(y + sample)
    z = tl.load(logits + sample * stride + column, mask=mask, other=float("-inf")).to(tl.float32)
    unknown = tl.max((z != z).to(tl.int32), 0) > 0
    known = tl.where(z == z, z, float("-inf"))
    others = tl.where(column == label, float("-inf"), known)
    best = tl.argmax(others, 0)
    true = tl.sum(tl.where(column == label, known, 0.0), 0)
    margin = tl.max(others, 0) - true
    direction = (column == best).to(tl.float32) - (column == label).to(tl.float32)
    value = margin
    if RATIO:
        first = tl.argmax(known, 0)
        rest = tl.where(column == first, float("-inf"), known)
        rest = tl.where(column == tl.argmax(rest, 0), float("-inf"), rest)
        spread = tl.max(known, 0) - tl.max(rest, 0) + 1e-12
        value = margin / spread
        ends = (column == first).to(tl.float32) - (column == tl.argmax(rest, 0)).to(tl.float32)
        direction = direction / spread - value / spread * ends
    tl.store(out + sample, tl.where(unknown, float("nan"), value))
    tl.store(slope + sample * classes + column, direction, mask=mask)
