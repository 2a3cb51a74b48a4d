from __future__ import annotations

from threading import Barrier, Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.proxy import TraceError

from fairbench.attacks.crafting import crafting_model
from fairbench.attacks.gradient import frozen, logits_and_gradient
from fairbench.attacks.losses import ce
from fairbench.copies.tracing import traced


class _Waits(nn.Module):
    """Lets another thread run while it is traced."""

    def __init__(self, started: Barrier, done: Barrier) -> None:
        super().__init__()
        self.layer, self.barriers = nn.Linear(3, 2), (started, done)

    def __deepcopy__(self, memo: dict[int, object]) -> _Waits:
        return self

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor):
            logits: Tensor = self.layer(x)
            return logits
        for barrier in self.barriers:
            barrier.wait(timeout=30)
        result: Tensor = self.layer(x)
        return result


def test_another_thread_uses_modules_while_one_is_traced() -> None:
    started, done = Barrier(2), Barrier(2)
    other, x, found = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.rand(4, 3), list[object]()
    wanted = other(x)

    def use() -> None:
        started.wait(timeout=30)
        found.append(other(x))
        done.wait(timeout=30)

    thread = Thread(target=use)
    thread.start()
    model = _Waits(started, done)
    graph = traced(model)
    thread.join()
    (got,) = found
    assert isinstance(got, Tensor)
    assert torch.equal(got, wanted)
    assert [node.op for node in graph.graph.nodes] == ["placeholder", "call_module", "output"]
    assert torch.equal(graph(x), model(x))


def test_many_threads_trace_at_once() -> None:
    models = [nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, number + 1)) for number in range(8)]
    x, found = torch.rand(2, 3), dict[int, Tensor]()

    def trace(number: int) -> None:
        found[number] = traced(models[number])(x)

    threads = [Thread(target=trace, args=(number,)) for number in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[number], model(x)) for number, model in enumerate(models))


class _Rounds(torch.autograd.Function):
    """A straight-through estimator: rounds, and lets the gradient through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (15 * x).round() / 15

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _Straight(nn.Module):
    """The same without an autograd function."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            rest = (15 * x).round() / 15 - x
        return x + rest


class _Applies(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rounded: Tensor = _Rounds.apply(x)
        return rounded


@pytest.mark.parametrize("rounds", [_Applies, _Straight])
@pytest.mark.parametrize("grad", [True, False])
def test_a_gradient_that_a_trace_would_lose_is_kept(rounds: type[nn.Module], grad: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(rounds(), nn.Flatten(), nn.Linear(36, 5)).eval()
    x, y = torch.rand(6, 1, 6, 6), torch.arange(6) % 5
    with torch.set_grad_enabled(grad), pytest.raises(TraceError, match=r"switches gradients off|backward of its own"):
        traced(model)
    with frozen(model):
        copy = crafting_model(model, x)
        assert torch.equal(logits_and_gradient(copy, x, ce, y)[1], logits_and_gradient(model, x, ce, y)[1])
        assert logits_and_gradient(model, x, ce, y)[1].abs().min() > 0


def test_a_network_is_traced_where_gradients_are_off() -> None:
    model, x = nn.Sequential(nn.Linear(3, 2)), torch.rand(4, 3)
    with torch.no_grad():
        assert torch.equal(traced(model)(x), model(x))
        assert not torch.is_grad_enabled()


class _Counts(nn.Module):
    """Counts its forwards in a buffer, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(36, 5)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x.flatten(1))


def test_a_network_that_assigns_to_a_buffer_has_no_trace_and_is_attacked_itself() -> None:
    model, x = _Counts().eval(), torch.rand(6, 1, 6, 6)
    with pytest.raises(TraceError, match="assigns to a buffer"):
        traced(model)
    assert crafting_model(model, x, bf16=True) is model
