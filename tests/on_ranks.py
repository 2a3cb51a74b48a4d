"""Run on each rank: rank 0 trains the methods named two epochs alone, then all ranks do so together.

Rank 0 prints how far apart both end, a line a method, in JSON: the largest difference of any weight after the first
step, and after both epochs those of the weights, of the method's state and of the losses. `NAME:float64` trains in that
precision. Two lines more are about the gradient for the images, and verdicts.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from fairbench import distributed
from fairbench.attacks import Ball, resolve
from fairbench.authoring.rehearsal import Rehearsal
from fairbench.cost import CostMeter
from fairbench.evaluation.batches import BatchVerdicts as Verdict
from fairbench.evaluation.journal import Journal
from fairbench.evaluation.shards import sharded_verdicts
from fairbench.method.composition import resolve_method
from fairbench.suites.sections import Precision
from fairbench.train.precision import arithmetic
from fairbench.train.ranks import Divided, Ranks, whole_batches
from fairbench.train.step import train_step

COUNTS = (7, 8, 9, 7)  # batches of 10, 10, 10 and 1: shares of several sizes, and fewer images than ranks


def trained(name: str, *, together: bool = False, nudge: float = 0.0, precision: Precision = "float32") -> list[Tensor]:
    """Weights after the first step, then weights, state and losses after two epochs, a vector each.

    After the first step the weights are changed by `nudge` of each.
    """
    with arithmetic(precision):
        return _trained(Rehearsal(resolve_method(name), COUNTS, batch_size=10, precision=precision), together, nudge)


def _trained(run: Rehearsal, together: bool, nudge: float) -> list[Tensor]:
    ranks, context = Ranks(run.model) if together else None, run.context
    if together:
        context.teacher = context.teacher and Divided(context.teacher).eval()
        context.natural_teacher = context.natural_teacher and Divided(context.natural_teacher).eval()
    losses, first = [], torch.empty(0)
    for epoch in range(2):
        run.begin()
        for number in range(len(run.batches)):
            losses.append(train_step(run.method, run.drawn(number), run.record, ranks=ranks))
            if not len(first):
                first = vector(run.model.state_dict())
                with torch.no_grad():
                    for weight in run.model.parameters():
                        weight.mul_(1 + nudge)
        run.record.all_reduce()
        run.end()
        if ranks is not None:
            ranks.check(epoch)
    return [first, vector(run.model.state_dict()), vector(run.method.state_dict()), torch.stack(losses).double()]


def difference(expected: Tensor, found: Tensor) -> float:
    """The largest difference of any two numbers, relative where they are above 1; infinities may agree."""
    return float(((expected - found).abs() / expected.abs().clamp(min=1)).nan_to_num(0).max())


def vector(state: dict[str, Tensor]) -> Tensor:
    """All numbers of a state in one float64 vector."""
    return torch.cat([torch.zeros(1).double(), *(value.detach().double().flatten() for value in state.values())])


def input_gradient(*, together: bool) -> list[Tensor]:
    """The gradient for its images of a loss that looks at the whole batch, in train mode."""
    run = Rehearsal(resolve_method("sat"), COUNTS, batch_size=10)
    model = Ranks(run.model).model if together else run.model
    x = run.batches[0].x.clone().requires_grad_()
    with whole_batches():
        loss = model(x).softmax(1).var(0).sum()
    (gradient,) = torch.autograd.grad(loss, x)
    return [gradient.double().flatten()]


def shards(folder: Path, *, together: bool) -> list[Tensor]:
    """Verdicts that go on from a journal of six images, which says 9 of all of them."""
    run = Rehearsal(resolve_method("sat"), COUNTS, batch_size=10)
    path = folder / f"{together}-{distributed.rank()}.jsonl"
    if distributed.rank() == 0:
        Journal(path, {}).append(Verdict([9] * 6, {}))
    journal, meter = Journal(path, {}), CostMeter()
    x, y = run.batches[0].x, run.batches[0].y.numpy()
    attack = resolve("pgd-5:rel_step=0.5", Ball("Linf", 0.3))
    with meter.measure(run.model):
        journals = {attack.text: journal}
        found = sharded_verdicts(run.model, x, y, [attack], batch_size=4, seed=1, journals=journals, meter=meter)
    written = sum(len(batch.predicted) for batch in Journal(path, {}).batches)
    assert written == (len(y) if distributed.rank() == 0 else 0)
    return [torch.from_numpy(found[attack.text]).double()]


def training(text: str, *, together: bool) -> list[Tensor]:
    """What `trained` returns for NAME or NAME:PRECISION."""
    name, _, precision = text.partition(":")
    return trained(name, together=together, precision=precision or "float32")  # type: ignore[arg-type]


def main() -> None:
    """Print the lines, on rank 0."""
    alone: dict[str, list[Tensor]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if os.environ.get("RANK", "0") == "0":  # the others' part is to train together
            alone = {text: training(text, together=False) for text in sys.argv[1:]}
            alone["input gradient"] = input_gradient(together=False)
            alone["verdicts"] = shards(Path(folder), together=False)
        with distributed.joined():
            for name in (*sys.argv[1:], "input gradient", "verdicts"):
                if name == "input gradient":
                    found = input_gradient(together=True)
                elif name == "verdicts":
                    found = shards(Path(folder), together=True)
                else:
                    found = training(name, together=True)
                if distributed.rank() == 0:
                    apart = [difference(*pair) for pair in zip(alone[name], found, strict=True)]
                    print(json.dumps([name, *apart]), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
