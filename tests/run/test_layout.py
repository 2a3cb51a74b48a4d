"""Networks of users that cannot take the memory layout in which convolutions are fast."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import tiny_specs
from torch import Tensor, nn

from fairbench import registry
from fairbench.models import build_model, place
from fairbench.results.folder import RunFolder
from fairbench.run.pipeline import execute_run

pytestmark = pytest.mark.usefixtures("one_thread")


class _Viewing(nn.Module):
    """As PyTorch's tutorial flattens what a convolution returns; `view` fails on channels-last memory."""

    def __init__(self, num_classes: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        self.convolution = nn.Conv2d(channels, 4, 3, padding=1)
        self.linear = nn.Linear(4 * height * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.convolution(x))
        return self.linear(features.view(len(x), -1))


@pytest.mark.parametrize("channels", [1, 3])
def test_only_a_network_that_fails_in_channels_last_memory_keeps_another(channels):
    shape = (channels, 8, 8)
    images = torch.rand(5, 8, 8, channels).permute(0, 3, 1, 2)
    fast = place(build_model("small-cnn", num_classes=4, shape=shape), "cpu", shape)
    assert fast[2].weight.is_contiguous(memory_format=torch.channels_last)
    fast(images)
    assert not fast._forward_pre_hooks
    own = _Viewing(4, shape)
    expected = own(images.clone(memory_format=torch.contiguous_format))
    with pytest.raises(RuntimeError, match="view"):
        own(images)
    state = torch.get_rng_state()
    assert place(own, "cpu", shape) is own
    assert own.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.allclose(own(images), expected)


def test_it_is_trained_teaches_and_is_attacked(tiny, tmp_path):
    registry.models.decorate("viewing")(lambda num_classes, shape: _Viewing(num_classes, shape))
    specs = tiny_specs(tiny, "rslad", model="viewing", teacher__model="viewing")
    assert [spec.model for spec in specs] == ["viewing"] * 2
    for spec in specs:
        execute_run(spec, tmp_path)
        assert RunFolder(tmp_path / spec.folder).read()["status"] == "complete"
