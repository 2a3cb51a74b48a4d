from __future__ import annotations

from pathlib import Path

import torch

import fairbench
from fairbench.authoring.syncs import SyncWatch, locate

PACKAGE = Path(fairbench.__file__).parent


def test_reads_are_counted_by_hook_call_and_line():
    watch, x = SyncWatch(), torch.arange(3.0)
    with watch:
        x.sum().item()  # between hooks: nobody's
        watch.hook = "loss"
        for _ in range(3):
            x.sum().item()
        watch.hook = "step"
        x.tolist()
    assert list(watch.found.values()) == [3, 1]
    loss, step = watch.found
    assert loss.startswith("loss calls .item(), which reads a number, at test_syncs.py:")
    assert step.startswith("step calls .tolist(), which copies to the host, at test_syncs.py:")
    x.sum().item()
    assert sum(watch.found.values()) == 4


def test_arithmetic_is_not_a_read():
    watch, x = SyncWatch(), torch.rand(4, 3)
    watch.hook = "loss"
    with watch:
        y = x.argmax(1)
        torch.where(x > 0.5, x, 0).sum(1)[y.clamp(max=2)].to(x.device).to(torch.float64)
        torch.nn.functional.one_hot(y, 3)
        torch.nn.functional.one_hot(y, num_classes=3)
        torch.tensor([1.0, 2.0]).unbind()
    assert not watch.found


def test_reads_inside_a_backward_pass_are_seen():
    class Peek(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            grad.sum().item()
            return grad

    watch, x = SyncWatch(), torch.ones(2, requires_grad=True)
    watch.hook = "attack"
    with watch:
        Peek.apply(x).sum().backward()
    assert sum(watch.found.values()) == 1


def test_blame_goes_to_the_innermost_foreign_frame():
    torch_file, ours = f"{Path(torch.__file__).parent}/nn/module.py", f"{PACKAGE}/method.py"
    assert locate([("a.py", 1), ("plug/in.py", 2), (ours, 3), (torch_file, 4)]) == "in.py:2"
    assert locate([(ours, 3), (torch_file, 4)]) == "module.py:4"
    assert locate([(f"{PACKAGE}/methods/x.py", 7), (ours, 3)]) == "x.py:7"
    assert locate([]) == "an unknown place"
