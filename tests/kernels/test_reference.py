from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from fairbench.kernels import (
    class_counts,
    class_sums,
    philox4x32,
    philox_normal,
    philox_uniform,
    projected_l2_step,
    projected_sign_step,
    reference,
)

ONES = 0xFFFFFFFF

# Counter, key and output of Philox4x32-10 in the known-answer file of Random123.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]

seeds = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, int], answer: tuple[int, ...]) -> None:
    assert philox4x32(counter, key) == answer
    for tensor in (torch.tensor, np.array):
        words = philox4x32(tuple(tensor([word]) for word in counter), key)
        assert [int(word[0]) for word in words] == list(answer)


def test_uniform_is_the_upper_24_bits_of_philox_on_element_index_stream_restart() -> None:
    drawn = philox_uniform((5 << 32) | 7, torch.tensor([11]), 6, stream=2, restart=3)
    words = [*philox4x32((0, 11, 2, 3), (7, 5)), *philox4x32((1, 11, 2, 3), (7, 5))]
    assert drawn.tolist() == [[(word >> 8) / 2**24 for word in words[:6]]]
    assert drawn.dtype == torch.float32


@given(seeds, st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6, unique=True), st.integers(1, 40))
def test_rows_belong_to_their_index(seed: int, index: list[int], numel: int) -> None:
    together = philox_uniform(seed, torch.tensor(index), numel)
    alone = torch.cat([philox_uniform(seed, torch.tensor([i]), numel) for i in index])
    backwards = philox_uniform(seed, torch.tensor(index[::-1]), numel).flip(0)
    longer = philox_uniform(seed, torch.tensor(index), numel + 5)[:, :numel]
    assert all(torch.equal(together, other) for other in (alone, backwards, longer))
    assert together.min() >= 0
    assert together.max() < 1


def test_every_part_of_the_key_changes_the_draw() -> None:
    index = torch.arange(3)
    draws = [
        philox_uniform(0, index, 16),
        philox_uniform(1, index, 16),
        philox_uniform(1 << 32, index, 16),
        philox_uniform(0, index + 3, 16),
        philox_uniform(0, index, 16, stream=1),
        philox_uniform(0, index, 16, restart=1),
    ]
    rows = torch.cat(draws)
    assert len(torch.unique(rows, dim=0)) == len(rows)


def test_distributions() -> None:
    index = torch.arange(64)
    uniform, normal = philox_uniform(1, index, 1001), philox_normal(1, index, 1001)
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > 0.01
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(normal[:, 0:1000:2].flatten(), normal[:, 1:1000:2].flatten())[0, 1]) < 0.02
    assert torch.equal(normal[5:6], philox_normal(1, index[5:6], 1001))


def test_sign_step_by_hand() -> None:
    x = torch.tensor([[0.5, 0.5, 0.5, 0.05, 0.95]])
    x_adv = torch.tensor([[0.5, 0.58, 0.5, 0.02, 0.97]])
    grad = torch.tensor([[2.0, 1e-20, 0.0, -3.0, 0.1]])
    moved = projected_sign_step(x_adv, grad, x, 0.1, 0.04)
    assert torch.allclose(moved, torch.tensor([[0.54, 0.6, 0.5, 0.0, 1.0]]))


def test_steps_per_sample_equal_samples_alone() -> None:
    x, grad = torch.rand(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    eps, size = torch.tensor([0.1, 0.2, 0.0]), torch.tensor([0.05, 0.3, 0.3])
    for move in (projected_sign_step, projected_l2_step):
        together = move(x, grad, x, eps, size)
        alone = [move(x[i : i + 1], grad[i : i + 1], x[i : i + 1], float(eps[i]), float(size[i])) for i in range(3)]
        assert torch.allclose(together, torch.cat(alone))
        assert torch.allclose(together[2], x[2])


def test_l2_step_by_hand() -> None:
    x = torch.full((3, 2), 0.5)
    grad = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3e-25, 4e-25]])
    short = projected_l2_step(x, grad, x, 0.2, 0.1)
    assert torch.allclose(short, torch.tensor([[0.56, 0.58], [0.5, 0.5], [0.56, 0.58]]))
    long = projected_l2_step(x, grad, x, 0.2, 9.0)
    assert torch.allclose(long, torch.tensor([[0.62, 0.66], [0.5, 0.5], [0.62, 0.66]]))


@settings(deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 2), st.floats(0, 5), st.sampled_from([(1,), (3, 2, 2), (1, 8, 8)]))
def test_steps_stay_in_ball_and_box(seed: int, eps: float, step: float, shape: tuple[int, ...]) -> None:
    index = torch.arange(4)
    numel = int(np.prod(shape))

    def draw(stream: int) -> Tensor:
        return philox_uniform(seed, index, numel, stream=stream).reshape(4, *shape)

    x, x_adv, grad = draw(0), draw(1), draw(2) - 0.5
    for move, order in ((projected_sign_step, torch.inf), (projected_l2_step, 2)):
        moved = move(x_adv, grad, x, eps, step)
        assert moved.min() >= 0
        assert moved.max() <= 1
        assert (moved - x).flatten(1).norm(order, dim=1).max() <= eps + 1e-5


@pytest.mark.parametrize("shape", [(50,), (50, 3)])
def test_both_ways_to_sum_over_classes_agree_and_keep_a_nan_in_its_class(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values, y = torch.randn(shape), torch.randint(4, (50,))
    values[y == 2] = torch.nan
    one, other = class_sums(values, y, 5), reference._masked_sums(values, y, 5)
    assert torch.allclose(one, other, atol=1e-5, equal_nan=True)
    assert not other[[0, 1, 3, 4]].isnan().any()


def test_class_sums_and_counts_by_hand() -> None:
    y = torch.tensor([2, 0, 2, 2])
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert class_sums(values, y, 4).tolist() == [2.0, 0.0, 13.0, 0.0]
    assert class_sums(torch.stack((values, -values), 1), y, 3).tolist() == [[2.0, -2.0], [0.0, 0.0], [13.0, -13.0]]
    assert class_sums(y == 2, y, 3).tolist() == [0.0, 0.0, 3.0]
    assert class_counts(y, 4).tolist() == [1, 0, 3, 0]
    assert class_counts(y, 4).dtype == torch.int64
