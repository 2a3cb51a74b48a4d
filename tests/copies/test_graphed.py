"""Copies whose passes are recorded, with a stand-in for CUDA graphs that runs the recorded function anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from replays import Recorded, rerun
from torch import Tensor, nn

from fairbench.attacks.gradient import logits_and_gradient
from fairbench.attacks.losses import ce, cw_loss
from fairbench.copies import float32_copy, name_of
from fairbench.copies.graphed import BLOCKS, Graphed, blocks
from fairbench.copies.half import HalfPrecision
from fairbench.copies.rewritten import Rewritten, folded
from fairbench.models import build_model


def _copy() -> Rewritten:
    torch.manual_seed(0)
    model = build_model("small-cnn:width=8,batchnorm=true", num_classes=5, shape=(3, 8, 8))
    model.train()(torch.rand(20, 3, 8, 8))
    return Rewritten(folded(model.eval()), torch.rand(2, 3, 8, 8), native=False)


@pytest.mark.parametrize("count", [1, 16, 17, 32, 33, 64, 65, 200, 257, 513, 1100])
def test_blocks_cover_a_batch_in_order(count: int) -> None:
    found = list(blocks(count))
    assert [end for _, end, _ in found][:-1] == [begin for begin, _, _ in found][1:]
    assert (found[0][0], found[-1][1]) == (0, count)
    assert all(end - begin <= size and size in BLOCKS for begin, end, size in found)
    assert sum(size for *_, size in found) < 2 * max(count, BLOCKS[-1])


@pytest.mark.parametrize("count", [1, 33, 130])
@pytest.mark.parametrize("loss", [ce, cw_loss])
def test_recorded_passes_equal_those_of_the_copy(count: int, loss: Callable[..., Tensor]) -> None:
    plain = _copy()
    graphed, passes = Graphed(plain, tf32=True, record=rerun), [0, 0]
    graphed.listener = lambda forwards, backwards: passes.__setitem__(
        slice(0, 2), [passes[0] + forwards, passes[1] + backwards]
    )
    for number in range(8):  # the first passes run operation by operation
        x, y = torch.rand(count, 3, 8, 8), torch.randint(5, (count,))
        wanted, got = logits_and_gradient(plain, x, loss, y), logits_and_gradient(graphed, x, loss, y)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            torch.testing.assert_close(graphed(x), plain(x), rtol=1e-4, atol=1e-6)
        assert passes == [2 * (number + 1) * count, (number + 1) * count]
    assert graphed._recorded
    graphed.forget()
    assert not graphed._recorded


def test_a_pass_that_cannot_be_recorded_runs_operation_by_operation() -> None:
    def fail(runs: Sequence[Callable[[], Tensor]]) -> Recorded:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    plain = _copy()
    graphed, x = Graphed(plain, tf32=True, record=fail), torch.rand(10, 3, 8, 8)
    with torch.no_grad():
        wanted = plain(x)
        with pytest.warns(UserWarning, match="no CUDA graph of 32 images: operation not") as warned:
            found = [graphed(x) for _ in range(10)]
    assert len(warned) == 1
    assert all(torch.allclose(logits, wanted) for logits in found)


def test_autograd_through_a_copy_counts_both_passes() -> None:
    plain = _copy()
    graphed, x = Graphed(plain, tf32=True, record=rerun), torch.rand(10, 3, 8, 8, requires_grad=True)
    (wanted,), (got,) = (torch.autograd.grad(network(x).logsumexp(1).sum(), x) for network in (plain, graphed))
    torch.testing.assert_close(got, wanted)
    assert (graphed.forwards, graphed.backwards) == (10, 10)


def test_a_copy_says_what_it_computes_in() -> None:
    plain: nn.Module = _copy()
    assert isinstance(plain, Rewritten)
    exact = Graphed(plain, tf32=False)
    quick = Graphed(plain, tf32=True, exact=exact)
    half = Graphed(HalfPrecision(plain.traced, plain), tf32=True, exact=quick)
    assert [name_of(each) for each in (exact, quick, half)] == ["torch", "tf32", "bfloat16"]
    assert float32_copy(half) is quick
    assert float32_copy(quick) is quick
