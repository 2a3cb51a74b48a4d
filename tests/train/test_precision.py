from __future__ import annotations

import torch

from fairbench.train.precision import autocast, describe, tensor_cores

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
    assert [describe(CPU, "float32"), describe(CUDA, "bf16")] == ["float32", "bf16+tf32"]
