"""Triton kernels against eager torch, on a GPU: `pytest tests/benchmarks/test_kernels.py -m slow -s`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from fairbench import kernels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="Triton's interpreter on a CPU says nothing about speed"),
]

BATCH, CLASSES = 1024, 100


def cases() -> dict[str, Callable[[], Tensor]]:
    """Each kernel on a batch of CIFAR's size, gradients included where it has them."""
    generator = torch.Generator("cuda").manual_seed(0)
    x, here, before = (torch.rand(BATCH, 3, 32, 32, device="cuda", generator=generator) for _ in range(3))
    grad = torch.randn(BATCH, 3, 32, 32, device="cuda", generator=generator)
    eps = torch.full((BATCH,), 8 / 255, device="cuda")
    y, index = torch.randint(CLASSES, (BATCH,), device="cuda"), torch.arange(BATCH, device="cuda")
    student = torch.randn(BATCH, CLASSES, device="cuda", generator=generator)
    student.requires_grad_()

    def slope(value: Tensor) -> Tensor:
        return torch.autograd.grad(value.sum(), student)[0]

    return {
        "projected_sign_step": lambda: kernels.projected_sign_step(here, grad, x, eps, eps / 4),
        "projected_l2_step": lambda: kernels.projected_l2_step(here, grad, x, eps, eps / 4),
        "apgd_sign_step": lambda: kernels.apgd_sign_step(here, before, grad, x, eps, eps / 4),
        "philox_uniform": lambda: kernels.philox_uniform(0, index, 3072),
        "philox_normal": lambda: kernels.philox_normal(0, index, 3072),
        "cw_margin": lambda: slope(kernels.cw_margin(student, y)),
        "dlr_margin": lambda: slope(kernels.dlr_margin(student, y)),
    }


def milliseconds(run: Callable[[], Tensor]) -> float:
    """Median device time of a call by events, 100 calls after 10."""
    times = []
    for number in range(110):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        if number >= 10:
            times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


@pytest.mark.parametrize(
    "name",
    [
        "projected_sign_step",
        "projected_l2_step",
        "apgd_sign_step",
        "philox_uniform",
        "philox_normal",
        "cw_margin",
        "dlr_margin",
    ],
)
def test_kernel(benchmark: BenchmarkFixture, name: str) -> None:
    run = cases()[name]
    with kernels.using("reference"):
        eager = milliseconds(run)
    with kernels.using("triton"):
        fast = milliseconds(run)
        benchmark.pedantic(run, rounds=5, iterations=10)
    print(f"\n{name}: {fast:.4f} ms against {eager:.4f} ms, ratio {eager / fast:.2f}")
    benchmark.extra_info.update(ratio=eager / fast, milliseconds=fast, reference=eager)
    assert fast > 0
