"""Kernels: `reference` defines them in plain torch, `triton` has faster ones for CUDA, `dispatch` chooses by tensor."""

from __future__ import annotations

from fairbench.kernels.dispatch import (
    apgd_sign_step,
    class_counts,
    class_sums,
    cw_margin,
    dlr_margin,
    philox_normal,
    philox_uniform,
    projected_l2_step,
    projected_sign_step,
    tempered_kl,
    using,
)
from fairbench.kernels.reference import philox4x32

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
    "using",
]
