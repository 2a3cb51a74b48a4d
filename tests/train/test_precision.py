from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import untrained
from torch import nn

from fairbench import registry
from fairbench.attacks import ImageRNG
from fairbench.authoring.rehearsal import Rehearsal
from fairbench.data import load_dataset
from fairbench.losses import kl_divergence
from fairbench.method.composition import resolve_method
from fairbench.results.folder import RunFolder
from fairbench.train.loop import train
from fairbench.train.precision import arithmetic, autocast, describe_precision, float32_network, tensor_cores, widened

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_bf16_is_for_forward_passes_of_a_recipe_that_says_so():
    layer, x = torch.nn.Linear(3, 2), torch.ones(1, 3)
    with autocast(CPU, "bf16"):
        assert layer(x).dtype == torch.bfloat16
    with autocast(CPU, "float32"):
        assert layer(x).dtype == torch.float32


def test_tensor_cores_round_on_cuda_alone_and_only_inside_the_block():
    settings = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [setting.fp32_precision for setting in settings]
    with tensor_cores(CPU):
        assert [setting.fp32_precision for setting in settings] == before
    with tensor_cores(CUDA):
        assert [setting.fp32_precision for setting in settings] == ["tf32", "tf32"]
    assert [setting.fp32_precision for setting in settings] == before


def test_a_record_names_the_arithmetic():
    assert [describe_precision(CPU, "float32"), describe_precision(CUDA, "bf16")] == ["float32", "bf16+tf32"]
    assert [describe_precision(CPU, "float64"), describe_precision(CUDA, "float64")] == ["float64", "float64"]


@pytest.mark.parametrize("precision", ["float32", "bf16", "float64"])
def test_what_asks_for_float32_gets_float64_in_the_block_of_that_precision_alone(precision):
    x, index = torch.ones(2, dtype=torch.float64) / 3, torch.arange(2)
    expected = torch.float64 if precision == "float64" else torch.float32
    with arithmetic(precision):
        made = [
            torch.ones(2),
            torch.tensor([1.5]),
            x.float(),
            x.to(torch.float32),
            torch.zeros(2, dtype=torch.float32),
            ImageRNG(0, index).normal([2, 3]),
            kl_divergence(x.view(2, 1), x.view(2, 1)),
        ]
        assert [tensor.dtype for tensor in made] == [expected] * len(made)
        assert torch.equal(x.float().double(), x) == (precision == "float64")
        assert x.bool().dtype == torch.bool
    assert (torch.ones(1).dtype, x.float().dtype) == (torch.float32, torch.float32)


def test_float64_ends_with_a_block_that_fails():
    with pytest.raises(ZeroDivisionError), arithmetic("float64"):
        1 / torch.ones(1).item() / 0
    assert torch.ones(1).dtype == torch.float32


def test_networks_are_copied_to_float64_and_back_to_the_same_bits():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    assert widened(network, "float32") is float32_network(network, "bf16") is network
    wide = widened(network, "float64")
    assert {value.dtype for value in wide.state_dict().values()} == {torch.float64, torch.int64}
    back = float32_network(wide, "float64")
    assert {value.dtype for value in wide.state_dict().values()} == {torch.float64, torch.int64}
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in back.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(registry.methods.names()))
def test_every_method_trains_in_float64(name):
    with arithmetic("float64"):
        run = Rehearsal(resolve_method(name), precision="float64")
        run.epoch()
    held = [*run.model.state_dict().values(), *run.method.state_dict().values(), *run.record.sums.values()]
    assert {value.dtype for value in held if value.is_floating_point()} == {torch.float64}


@pytest.mark.parametrize("method", ["wat", "absld", "fair_ard+fawa"])
def test_a_float64_training_keeps_float64_throughout_and_saves_float32(spec_of, tmp_path, method):
    spec, folder = spec_of(method, recipe__precision="float64", recipe__epochs=1), RunFolder(tmp_path)
    dataset, found, seen = load_dataset(spec.data.name), [], []
    teacher = untrained(spec) if spec.teacher else None
    if teacher is not None:
        teacher.register_forward_hook(lambda _network, _x, logits: found.append(logits.dtype))  # copied with it

    def look(_stage, _done, _total, _note):
        tensors = load_file(folder.resume)
        found.extend(value.dtype for value in tensors.values() if value.is_floating_point())
        seen.extend(tensors)

    cost = train(spec, folder, dataset, teacher=teacher, progress=look)
    assert set(found) == {torch.float64}
    assert {name.partition("/")[0] for name in seen} == {"model", "method", "optimizer"}
    assert cost["arithmetic"] == "float64"
    for path in (folder.best, folder.last):
        assert torch.float64 not in {value.dtype for value in load_file(path).values()}
