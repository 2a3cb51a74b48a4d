"""The kernels in Triton, with the signatures of `reference`, which defines their results.

Only kernels that were faster than the reference on an H100 are here. Tests run the programs in Triton's interpreter on
a CPU, and natively on a GPU.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fairbench.kernels import programs

__all__ = [
    "apgd_sign_step",
    "cw_margin",
    "dlr_margin",
    "philox_normal",
    "philox_uniform",
    "projected_l2_step",
    "projected_sign_step",
]

_WORD = 0xFFFFFFFF
_BLOCK = 1024
_ROW = 4096
_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def projected_sign_step(
    x_adv: Tensor, grad: Tensor, x: Tensor, eps: float | Tensor, step: float | Tensor, *, out: Tensor | None = None
) -> Tensor:
    """As `reference.projected_sign_step`, to the same bits, in one pass over memory."""
    return _move(programs.sign_program, (x_adv, grad, x), (eps, step), (), out, blocks=True)


def projected_l2_step(
    x_adv: Tensor, grad: Tensor, x: Tensor, eps: float | Tensor, step: float | Tensor, *, out: Tensor | None = None
) -> Tensor:
    """As `reference.projected_l2_step`, up to the rounding of its sums; one program a sample."""
    return _move(programs.l2_program, (x_adv, grad, x), (eps, step), (), out, blocks=False)


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
    """As `reference.apgd_sign_step`, to the same bits, in one pass over memory."""
    return _move(programs.apgd_program, (here, before, grad, x), (eps, step), (momentum,), None, blocks=True)


def philox_uniform(seed: int, index: Tensor, numel: int, *, stream: int = 0, restart: int = 0) -> Tensor:
    """As `reference.philox_uniform`, to the same bits."""
    return _philox(seed, index, numel, stream, restart, normal=False)


def philox_normal(seed: int, index: Tensor, numel: int, *, stream: int = 0, restart: int = 0) -> Tensor:
    """As `reference.philox_normal`, up to the rounding of logarithm and cosine."""
    return _philox(seed, index, numel, stream, restart, normal=True)


def cw_margin(logits: Tensor, y: Tensor) -> Tensor:
    """As `reference.cw_margin`; the slope of a tie goes to the first of its classes."""
    margin: Tensor = _Margin.apply(logits, y, False)
    return margin


def dlr_margin(logits: Tensor, y: Tensor) -> Tensor:
    """As `reference.dlr_margin`; the slope of a tie goes to the first of its classes."""
    margin: Tensor = _Margin.apply(logits, y, logits.shape[1] > 2)
    return margin


class _Margin(torch.autograd.Function):
    """The forward pass computes the margin and its slope, which the backward pass scales."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, y: Tensor, ratio: bool) -> Tensor:
        logits, y = _rows(logits), y.contiguous()
        margin = torch.empty(len(logits), dtype=logits.dtype, device=logits.device)
        slope = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
        classes, block = logits.shape[1], triton.next_power_of_2(logits.shape[1])
        given = (margin, slope, logits, y, classes, logits.stride(0))
        _launch(programs.margin_program, (len(logits),), *given, RATIO=ratio, BLOCK=block)
        ctx.save_for_backward(slope)
        ctx.dtype = logits.dtype
        return margin

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (upstream.float()[:, None] * slope).to(ctx.dtype), None, None


def _move(
    program: Any,
    tensors: tuple[Tensor, ...],
    sizes: tuple[float | Tensor, ...],
    scalars: tuple[float, ...],
    out: Tensor | None,
    *,
    blocks: bool,
) -> Tensor:
    """Launch a step on tensors [B,...] brought to one dense layout, that of the first, which the result has too."""
    kinds = [each.dtype for each in (*tensors, *sizes) if isinstance(each, Tensor)]
    kind = reduce(torch.promote_types, kinds)
    first, *others = tensors
    if not (first.is_contiguous() or (first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last))):
        first = first.contiguous()
    aligned = [first, *(_like(other, first) for other in others)]
    fits = out is not None and out.dtype == kind and out.stride() == first.stride()
    result = out if out is not None and fits else torch.empty_like(first, dtype=kind)
    numel = first[0].numel() if len(first) else 0
    block = triton.next_power_of_2(min(max(numel, 1), _BLOCK if blocks else _ROW))
    count = triton.cdiv(numel, block) if blocks else 1
    each = {f"EACH_{name}": isinstance(size, Tensor) for name, size in zip(("EPS", "STEP"), sizes, strict=True)}
    given = [size.reshape(-1).expand(len(first)).contiguous() if isinstance(size, Tensor) else size for size in sizes]
    extents = (numel, count) if blocks else (numel,)
    constants = {**each, "D": _TYPES[kind], "BLOCK": block}
    _launch(program, (len(first) * count,), result, *aligned, *given, *scalars, *extents, **constants)
    return result if out is None or fits else out.copy_(result)


def _philox(seed: int, index: Tensor, numel: int, stream: int, restart: int, *, normal: bool) -> Tensor:
    out = torch.empty((len(index), numel), dtype=torch.float32, device=index.device)
    counters = triton.cdiv(numel, 4)
    block = triton.next_power_of_2(min(max(counters, 1), _BLOCK))
    blocks = triton.cdiv(counters, block)
    words = (seed & _WORD, (seed >> 32) & _WORD, stream & _WORD, restart & _WORD)
    grid = (len(index) * blocks,)
    _launch(programs.philox_program, grid, out, index.contiguous(), *words, numel, blocks, NORMAL=normal, BLOCK=block)
    return out


def _rows(logits: Tensor) -> Tensor:
    """Return logits [B,C] with dense rows; rows may be apart."""
    return logits if logits.stride(1) == 1 else logits.contiguous()


def _like(tensor: Tensor, first: Tensor) -> Tensor:
    same = tensor.stride() == first.stride()
    return tensor if same else torch.empty_like(first, dtype=tensor.dtype).copy_(tensor)


def _launch(program: Any, grid: tuple[int, ...], *given: Any, **constants: Any) -> None:
    """Run the program on the device of its first argument; an empty grid does nothing.

    Multiplication and addition are not fused, which reproduces the reference's rounding.
    """
    if all(grid):
        with torch.cuda.device_of(given[0]):  # type: ignore[no-untyped-call]
            program[grid](*given, **constants, enable_fp_fusion=False)
