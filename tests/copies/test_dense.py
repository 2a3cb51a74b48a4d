from __future__ import annotations

import pytest
import torch
from torch import nn

from fairbench.copies.dense import DenseConv


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_written_out(stride: int, groups: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride, padding=1, groups=groups, bias=groups == 1).requires_grad_(False)
    x = torch.rand(3, 4, 5, 6)
    assert torch.allclose(DenseConv(conv, (4, 5, 6))(x), conv(x), atol=1e-5)
