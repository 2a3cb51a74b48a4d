"""The kernels: `reference` defines them in plain torch, and this module hands out the ones in use."""

from __future__ import annotations

from fairbench.kernels.reference import (
    class_counts,
    class_sums,
    philox4x32,
    philox_normal,
    philox_uniform,
    projected_l2_step,
    projected_sign_step,
)

__all__ = [
    "class_counts",
    "class_sums",
    "philox4x32",
    "philox_normal",
    "philox_uniform",
    "projected_l2_step",
    "projected_sign_step",
]
