"""The Triton kernels against the reference: through Triton's interpreter on a CPU, natively under the marker `gpu`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fairbench import kernels
from fairbench.kernels import reference

pytest.importorskip("triton", reason="this build of torch brings no Triton")

pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # the interpreter's maximum is numpy's

interpreted = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the interpreter is for machines without a GPU; here `-m gpu` runs the kernels"
)
everywhere = pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=interpreted), pytest.param("cuda", marks=pytest.mark.gpu)]
)
few = settings(deadline=None, max_examples=12, phases=[Phase.explicit, Phase.reuse, Phase.generate])

DTYPES = st.sampled_from([torch.float32, torch.bfloat16])
SHAPES = st.sampled_from([(1, 1), (3, 5), (2, 1, 8, 8), (3, 3, 4, 5), (2, 7, 1, 3), (1, 3, 33, 32), (4, 2, 3)])
LAYOUTS = st.sampled_from(["contiguous", "channels_last", "strided", "batch_inside"])
SPECIAL = st.sampled_from([(), (float("nan"),), (float("inf"), float("-inf")), (0.0, -0.0, float("nan"))])


@pytest.fixture(autouse=True)
def _numbers_that_are_none() -> Iterator[None]:
    """Ignore numpy's warnings about intended infinities and NaN in Triton's interpreter."""
    with np.errstate(all="ignore"):
        yield


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout."""
    if layout == "channels_last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.stack((x, x), dim=-1)[..., 0]
    return x.transpose(0, -1).contiguous().transpose(0, -1) if layout == "batch_inside" else x


def drawn(generator: torch.Generator, shape: tuple[int, ...], special: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    values = torch.randn(shape, generator=generator)
    if special:
        places = torch.randint(values.numel(), (3,), generator=generator)
        values.flatten()[places] = torch.tensor(special).repeat(3)[:3]
    return values.to(dtype)


def same(got: Tensor, wanted: Tensor, **tolerance: float) -> None:
    torch.testing.assert_close(got.cpu(), wanted, equal_nan=True, **(tolerance or {"rtol": 0, "atol": 0}))


def step_arguments(seed, shape, layouts, dtype, special, per_sample):
    """here, before, grad, x, eps, step; gradients may hold special values, and one iterate a NaN."""
    generator = torch.Generator().manual_seed(seed)
    x, here, before = (torch.rand(shape, generator=generator).to(dtype) for _ in range(3))
    if special:
        here.flatten()[0] = float("nan")
    grad = drawn(generator, shape, special, dtype)
    eps, step = torch.rand(2, shape[0], generator=generator).to(dtype) / 4
    sizes = (eps, step) if per_sample else (0.1, 0.03)
    return [laid_out(t, how) for t, how in zip((here, before, grad, x), layouts, strict=True)], sizes


steps = given(
    seed=st.integers(0, 1000),
    shape=SHAPES,
    layouts=st.tuples(LAYOUTS, LAYOUTS, LAYOUTS, LAYOUTS),
    dtype=DTYPES,
    special=SPECIAL,
    per_sample=st.booleans(),
)


def moved(values: list[Tensor], device: str) -> list[Tensor]:
    """Move to the device, keeping the strides."""
    return [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device).copy_(t) for t in values]


@everywhere
@few
@steps
def test_sign_step_has_the_bits_of_the_reference_in_float32(device, seed, shape, layouts, dtype, special, per_sample):
    (here, _, grad, x), sizes = step_arguments(seed, shape, layouts, dtype, special, per_sample)
    wanted = reference.projected_sign_step(here, grad, x, *sizes)
    on_device = [size.to(device) if isinstance(size, Tensor) else size for size in sizes]
    with kernels.using("triton"):
        got = kernels.projected_sign_step(*moved([here, grad, x], device), *on_device)
    same(got, wanted, rtol=0, atol=0 if dtype == torch.float32 else 2**-7)


@everywhere
@few
@steps
def test_apgd_step(device, seed, shape, layouts, dtype, special, per_sample):
    (here, before, grad, x), sizes = step_arguments(seed, shape, layouts, dtype, special, per_sample)
    wanted = reference.apgd_sign_step(here, before, grad, x, *sizes)
    on_device = [size.to(device) if isinstance(size, Tensor) else size for size in sizes]
    with kernels.using("triton"):
        got = kernels.apgd_sign_step(*moved([here, before, grad, x], device), *on_device)
    same(got, wanted, rtol=0, atol=1e-6 if dtype == torch.float32 else 2**-6)


@everywhere
@few
@steps
def test_l2_step(device, seed, shape, layouts, dtype, special, per_sample):
    (here, _, grad, x), sizes = step_arguments(seed, shape, layouts, dtype, special, per_sample)
    on_device = [size.to(device) if isinstance(size, Tensor) else size for size in sizes]
    with kernels.using("triton"):
        got = kernels.projected_l2_step(*moved([here, grad, x], device), *on_device)
    exact = [t.float() if isinstance(t, Tensor) else t for t in (here, grad, x, *sizes)]
    wanted = reference.projected_l2_step(*exact)
    assert got.dtype == dtype
    same(got.float(), wanted, rtol=0, atol=1e-5 if dtype == torch.float32 else 2**-7)


@everywhere
@pytest.mark.parametrize("name", ["projected_sign_step", "projected_l2_step"])
def test_a_step_in_place_and_one_over_several_blocks(device, name):
    generator = torch.Generator().manual_seed(0)
    x, here, grad = (torch.rand(2, 3, 41, 43, generator=generator) for _ in range(3))
    grad -= 0.5
    wanted = getattr(reference, name)(here, grad, x, 0.1, 0.03)
    there = here.clone().to(device)
    with kernels.using("triton"):
        got = getattr(kernels, name)(there, grad.to(device), x.to(device), 0.1, 0.03, out=there)
    assert got.data_ptr() == there.data_ptr()
    same(there, wanted, rtol=0, atol=1e-6)
    assert getattr(reference, name)(here, grad, x, 0.1, 0.03, out=here) is here
    assert torch.equal(here, wanted)


@everywhere
@few
@given(
    seed=st.integers(0, 2**64 - 1),
    index=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4),
    numel=st.integers(1, 70),
    stream=st.integers(0, 2**32 - 1),
    restart=st.integers(0, 3),
)
def test_uniform_numbers_have_the_bits_of_the_reference(device, seed, index, numel, stream, restart):
    rows = torch.tensor(index, dtype=torch.int64)
    with kernels.using("triton"):
        uniform = kernels.philox_uniform(seed, rows.to(device), numel, stream=stream, restart=restart)
        normal = kernels.philox_normal(seed, rows.to(device), numel, stream=stream, restart=restart)
    same(uniform, reference.philox_uniform(seed, rows, numel, stream=stream, restart=restart))
    same(normal, reference.philox_normal(seed, rows, numel, stream=stream, restart=restart), rtol=1e-4, atol=1e-5)


@everywhere
def test_uniform_numbers_over_several_blocks(device):
    rows = torch.tensor([7, 3])
    with kernels.using("triton"):
        same(kernels.philox_uniform(5, rows.to(device), 9001), reference.philox_uniform(5, rows, 9001))


def with_slope(function, logits: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """The value and the gradient with respect to the logits of the sum weighted by `upstream`."""
    logits = logits.detach().requires_grad_()
    value = function(logits)
    (slope,) = torch.autograd.grad((upstream * value).sum(), logits)
    return value.detach(), slope


@everywhere
@pytest.mark.parametrize("name", ["cw_margin", "dlr_margin"])
@few
@given(
    seed=st.integers(0, 1000),
    size=st.integers(1, 5),
    classes=st.sampled_from([2, 3, 4, 10, 33]),
    dtype=DTYPES,
    layout=st.sampled_from(["contiguous", "strided", "batch_inside"]),
    special=SPECIAL,
)
def test_margins_and_their_gradients(device, name, seed, size, classes, dtype, layout, special):
    generator = torch.Generator().manual_seed(seed)
    # a permutation has no ties, where a gradient would be a matter of taste
    ranks = torch.stack([torch.randperm(classes, generator=generator) for _ in range(size)])
    logits = (ranks.float() - classes / 3).to(dtype)
    if special:
        logits[0, : len(special)] = torch.tensor(special)[:classes].to(dtype)
    y, upstream = torch.randint(classes, (size,), generator=generator), torch.rand(size, generator=generator)
    there = moved([laid_out(logits, layout)], device)[0]
    wanted, slope = with_slope(lambda z: getattr(reference, name)(z, y), logits, upstream)
    with kernels.using("triton"):
        got, found = with_slope(lambda z: getattr(kernels, name)(z, y.to(device)), there, upstream.to(device))
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2**-6, "atol": 1e-2}
    same(got, wanted, **close)
    rows = wanted.isfinite() & (torch.arange(size) >= bool(special))
    same(found[rows.to(device)], slope[rows], **close)


@everywhere
def test_gradients_that_a_kernel_does_not_know_come_from_the_reference(device):
    x = torch.rand(2, 4, device=device, requires_grad=True)
    with kernels.using("triton"):
        moved_x = kernels.projected_sign_step(x, torch.rand(2, 4, device=device), x, 0.1, 0.01)
        (slope,) = torch.autograd.grad(moved_x.sum(), x)
        double = kernels.projected_sign_step(*torch.rand(3, 2, 4, device=device, dtype=torch.float64), 0.1, 0.1)
    assert slope.abs().sum() > 0
    assert double.dtype == torch.float64


def test_on_a_cpu_the_reference_runs_unless_asked_otherwise(monkeypatch):
    fast = pytest.importorskip("fairbench.kernels.triton")

    def called(*_args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(fast, "cw_margin", called)
    logits, y = torch.tensor([[0.0, 3.0]]), torch.tensor([1])
    assert kernels.cw_margin(logits, y).tolist() == [-3.0]
    with kernels.using("triton"), pytest.raises(ZeroDivisionError):
        kernels.cw_margin(logits, y)
