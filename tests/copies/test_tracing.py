from __future__ import annotations

from threading import Barrier, Thread

import torch
from torch import Tensor, nn

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
