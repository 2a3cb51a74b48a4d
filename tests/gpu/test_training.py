"""Training on a CUDA device: no host sync inside a step, and the losses of every way to run a step agree."""

from __future__ import annotations

import pytest
import torch

from fairbench.cost import CostMeter
from fairbench.data.batch import Batch
from fairbench.method.composition import build_method, resolve_method
from fairbench.method.context import Context
from fairbench.method.method import Method
from fairbench.method.record import ClassRecord
from fairbench.models import build_model
from fairbench.suites.sections import Recipe, ThreatSection
from fairbench.train.precision import tensor_cores
from fairbench.train.step import accelerate, train_step

pytestmark = pytest.mark.gpu

METHODS = ["sat", "trades", "rslad", "absld", "fair_ard"]
SIZE = 64


def set_up(name: str, precision: str) -> Method:
    """A method with ResNet-18 on the device, and a teacher of the same architecture."""
    device = torch.device("cuda")
    torch.manual_seed(0)
    model, teacher = (
        build_model("resnet18", num_classes=10, shape=(3, 32, 32)).to(device, memory_format=torch.channels_last)
        for _ in range(2)
    )
    recipe = Recipe(batch_size=SIZE, attack_steps=3, precision=precision)
    method = build_method(resolve_method(name))
    method.setup(
        Context(
            model=model,
            num_classes=10,
            class_counts=torch.full((10,), SIZE, device=device),
            device=device,
            threat=ThreatSection(),
            recipe=recipe,
            seed=0,
            epochs=10,
            train_size=10 * SIZE,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True),
            teacher=teacher.eval().requires_grad_(False),
        )
    )
    return method


def batches(count: int) -> list[Batch]:
    generator = torch.Generator("cuda").manual_seed(0)
    return [
        Batch(
            torch.rand(SIZE, 3, 32, 32, device="cuda", generator=generator),
            torch.randint(10, (SIZE,), device="cuda", generator=generator),
            torch.arange(SIZE, device="cuda") + number * SIZE,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_never_waits_for_the_device(name, precision):
    method, record, drawn = set_up(name, precision), ClassRecord(10, torch.device("cuda")), batches(3)
    accelerator = accelerate(method, CostMeter(), size=SIZE, mode="eager")
    train_step(method, drawn[0], record, accelerator)  # compiles kernels, which may wait
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in drawn[1:]:
            train_step(method, batch, record, accelerator)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("mode", ["graph", "compiled-graph", "step-graph", "compiled-step-graph"])
@pytest.mark.parametrize("name", METHODS)
def test_every_way_to_run_a_step_trains_alike(name, mode):
    losses = {}
    for each in ("eager", mode):
        method, record = set_up(name, "float32"), ClassRecord(10, torch.device("cuda"))
        accelerator = accelerate(method, CostMeter(), size=SIZE, mode=each)
        with tensor_cores(torch.device("cuda")):
            losses[each] = torch.stack([train_step(method, batch, record, accelerator) for batch in batches(4)])
        assert accelerator.mode == each
    torch.testing.assert_close(losses["eager"], losses[mode], rtol=0.05, atol=0.01)
