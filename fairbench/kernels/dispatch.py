"""The choice of a kernel: Triton's for CUDA tensors if Triton can be imported, else the reference's.

Sums over classes and the tempered divergence always use the reference, which was faster on an H100.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from importlib import import_module
from types import ModuleType
from typing import Literal, ParamSpec

import torch
from torch import Tensor

from fairbench.kernels import reference

__all__ = [
    "apgd_sign_step",
    "class_counts",
    "class_sums",
    "cw_margin",
    "dlr_margin",
    "philox_normal",
    "philox_uniform",
    "projected_l2_step",
    "projected_sign_step",
    "tempered_kl",
    "using",
]

Given = ParamSpec("Given")

_DOUBLE = {torch.float64, torch.complex64, torch.complex128}
_asked: ContextVar[Literal["reference", "triton"] | None] = ContextVar("asked", default=None)


@contextmanager
def using(name: Literal["reference", "triton"]) -> Iterator[None]:
    """Run all kernels in the block by one implementation, for tests and timings.

    On CPU tensors "triton" needs TRITON_INTERPRET=1 in the environment when triton is imported.
    """
    token = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(token)


@cache
def _triton() -> ModuleType | None:
    try:
        return import_module("fairbench.kernels.triton")
    except ImportError:
        return None


def _is_for_triton(tensors: list[Tensor], differentiable: int | None) -> bool:
    """Tell whether Triton's kernel applies: it has no float64, and the gradient of at most one argument."""
    if _asked.get() == "reference" or not (tensors[0].is_cuda or _asked.get() == "triton"):
        return False
    tracked = torch.is_grad_enabled() and any(
        tensor.requires_grad for position, tensor in enumerate(tensors) if position != differentiable
    )
    return not tracked and not any(tensor.dtype in _DOUBLE for tensor in tensors)


def _chosen(plain: Callable[Given, Tensor], *, differentiable: int | None = None) -> Callable[Given, Tensor]:
    """Return the dispatching kernel; Triton's has the gradient of the tensor argument at position `differentiable`
    only.
    """

    @wraps(plain)
    def kernel(*args: Given.args, **kwargs: Given.kwargs) -> Tensor:
        tensors = [value for value in args if isinstance(value, Tensor)]
        fast = _triton() if _is_for_triton(tensors, differentiable) else None
        run: Callable[Given, Tensor] = plain if fast is None else getattr(fast, plain.__name__)
        return run(*args, **kwargs)

    return kernel


apgd_sign_step = _chosen(reference.apgd_sign_step)
class_counts = reference.class_counts
class_sums = reference.class_sums
cw_margin = _chosen(reference.cw_margin, differentiable=0)
dlr_margin = _chosen(reference.dlr_margin, differentiable=0)
philox_normal = _chosen(reference.philox_normal)
philox_uniform = _chosen(reference.philox_uniform)
projected_l2_step = _chosen(reference.projected_l2_step)
projected_sign_step = _chosen(reference.projected_sign_step)
tempered_kl = reference.tempered_kl
