"""Ranks on a CUDA device, by NCCL: one rank on one device, through every collective, trains as a process alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from fairbench import distributed
from fairbench.data.batch import Batch
from fairbench.method.composition import build_method, resolve_method
from fairbench.method.context import Context
from fairbench.method.record import ClassRecord
from fairbench.models import build_model
from fairbench.suites.sections import Recipe, ThreatSection
from fairbench.train.ranks import Divided, Ranks
from fairbench.train.step import train_step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")]

DEVICE, BACKEND = torch.device("cuda"), "nccl"
CLASSES, SIZE, STEPS = 4, 32, 3


@pytest.fixture
def one_rank(monkeypatch) -> Iterator[None]:
    """A group of one, which `joined` would not make."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "_group", distributed._join(distributed.KEPT))
    yield
    dist.destroy_process_group()


def _batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [
        Batch(
            torch.rand(SIZE, 3, 16, 16, generator=generator).to(DEVICE),
            torch.randint(CLASSES, (SIZE,), generator=generator).to(DEVICE),
            (torch.arange(SIZE) + number * SIZE).to(DEVICE),
        )
        for number in range(STEPS)
    ]


def _trained(name: str, *, together: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, weights and the class record's counts of correct images after some steps of a method with a teacher."""
    torch.manual_seed(0)
    model, teacher = (
        build_model("small-cnn:width=8,batchnorm=true", num_classes=CLASSES, shape=(3, 16, 16)).to(DEVICE)
        for _ in range(2)
    )
    teacher.eval().requires_grad_(False)
    ranks = Ranks(model) if together else None
    method, record = build_method(resolve_method(name)), ClassRecord(CLASSES, DEVICE)
    method.setup(
        Context(
            model=model,
            num_classes=CLASSES,
            class_counts=torch.full((CLASSES,), SIZE, device=DEVICE),
            device=DEVICE,
            threat=ThreatSection(),
            recipe=Recipe(batch_size=SIZE, attack_steps=3),
            seed=0,
            epochs=2,
            train_size=STEPS * SIZE,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
            teacher=Divided(teacher).eval() if together else teacher,
        )
    )
    losses = torch.stack([train_step(method, batch, record, ranks=ranks) for batch in _batches()])
    record.all_reduce()
    method.end_epoch(record)
    if ranks is not None:
        ranks.check(0)
    weights = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    return losses, weights, record.sums["correct_adv"]


def test_the_backend_is_nccl_and_its_collectives_return_what_they_are_given(one_rank):
    assert dist.distributed_c10d._get_default_group()._get_backend(DEVICE).name() == BACKEND
    for values in (torch.arange(6.0, device=DEVICE).view(3, 2), torch.tensor([True, False, True], device=DEVICE)):
        assert torch.equal(distributed.gather_rows(values, 3), values)
    total = torch.arange(3.0, device=DEVICE)
    distributed.add_up([total])
    assert total.tolist() == [0, 1, 2]
    assert distributed.exchange({"rank": distributed.rank()}) == [{"rank": 0}]


@pytest.mark.parametrize("name", ["sat", "absld"])
def test_one_rank_trains_as_a_process_without_a_group(one_rank, name):
    expected, found = _trained(name, together=False), _trained(name, together=True)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-2, atol=1e-3)
    assert (found[2] - expected[2]).abs().max() <= 1
