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
    """The interpreter computes with numpy, which warns about infinities that are meant."""
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
    """To the device in the same strides."""
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


@everywhere
@few
@given(
    seed=st.integers(0, 1000),
    size=st.integers(1, 40),
    classes=st.integers(1, 12),
    columns=st.sampled_from([None, 1, 3]),
    special=SPECIAL,
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.bool, torch.int64]),
)
def test_class_sums_and_counts(device, seed, size, classes, columns, special, dtype):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (size,), generator=generator)
    shape = (size,) if columns is None else (size, columns)
    values = drawn(generator, shape, special if dtype.is_floating_point else (), torch.float32).to(dtype)
    with kernels.using("triton"):
        sums = kernels.class_sums(values.to(device), y.to(device), classes)
        counts = kernels.class_counts(y.to(device), classes)
    same(sums, reference.class_sums(values, y, classes), rtol=1e-5, atol=1e-5)
    same(counts, reference.class_counts(y, classes))


def with_slope(function, logits: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """The value and the gradient with respect to the logits of the sum weighted by `upstream`."""
    logits = logits.detach().requires_grad_()
    value = function(logits)
    (slope,) = torch.autograd.grad((upstream * value).sum(), logits)
    return value.detach(), slope


@everywhere
@few
@given(
    seed=st.integers(0, 1000),
    size=st.integers(1, 5),
    classes=st.sampled_from([2, 3, 10, 100]),
    dtype=DTYPES,
    layout=st.sampled_from(["contiguous", "strided", "batch_inside"]),
    scale=st.sampled_from([1.0, 30.0]),
)
def test_tempered_kl_and_its_gradient(device, seed, size, classes, dtype, layout, scale):
    generator = torch.Generator().manual_seed(seed)
    teacher, student = (scale * drawn(generator, (size, classes), (), dtype) for _ in range(2))
    tau, upstream = 0.5 + torch.rand(size, generator=generator), torch.rand(size, generator=generator)
    wanted, slope = with_slope(lambda z: reference.tempered_kl(teacher, z, tau), student, upstream)
    there, tau = moved([laid_out(teacher, layout)], device)[0], tau.to(device)
    with kernels.using("triton"):
        student = moved([laid_out(student, layout)], device)[0]
        got, found = with_slope(lambda z: kernels.tempered_kl(there, z, tau), student, upstream.to(device))
    same(got, wanted, rtol=1e-4, atol=1e-4)
    assert found.dtype == dtype
    same(found, slope, rtol=1e-4 if dtype == torch.float32 else 2**-7, atol=1e-5)


@everywhere
@pytest.mark.parametrize("classes", [5, 5000])
def test_divergence_of_logits_that_are_not_finite(device, classes):
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 5, classes, generator=generator)
    teacher[1, 1], student[2, 2] = float("-inf"), float("-inf")
    teacher[3, 3], student[4, -1] = float("nan"), float("nan")
    tau = torch.ones(5)
    wanted = reference.tempered_kl(teacher, student, tau)
    with kernels.using("triton"):
        got = kernels.tempered_kl(teacher.to(device), student.to(device), tau.to(device))
    assert wanted.isinf().tolist() == [False, False, True, False, False]
    assert wanted.isnan().tolist() == [False, False, False, True, True]
    same(got, wanted, rtol=1e-4, atol=1e-4)


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
    teacher = torch.randn(2, 3, device=device, requires_grad=True)
    logits, tau = torch.randn(2, 3, device=device), torch.ones(2, device=device)
    with kernels.using("triton"):
        (slope,) = torch.autograd.grad(kernels.tempered_kl(teacher, logits, tau).sum(), teacher)
        double = kernels.projected_sign_step(*torch.rand(3, 2, 4, device=device, dtype=torch.float64), 0.1, 0.1)
    assert slope.abs().sum() > 0
    assert double.dtype == torch.float64


def test_on_a_cpu_the_reference_runs_unless_asked_otherwise(monkeypatch):
    fast = pytest.importorskip("fairbench.kernels.triton")

    def called(*_args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(fast, "class_counts", called)
    y = torch.tensor([1, 1])
    assert kernels.class_counts(y, 2).tolist() == [0, 2]
    with kernels.using("triton"), pytest.raises(ZeroDivisionError):
        kernels.class_counts(y, 2)
