"""Remarks on a model and its images that accompany an evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from odd_models import Wrapped, conv_net, labelled
from torch import Tensor, nn

from fairbench import evaluate


def test_a_remark_says_that_a_model_changes_its_input() -> None:
    with pytest.warns(UserWarning, match="the model changes its input in place"):
        report = evaluate(Wrapped(lambda x: x.sub_(0.25)), labelled(), attacks=["clean"])
    assert report.remarks == ("the model changes its input in place: it is given copies of the images",)


@pytest.mark.parametrize(
    ("before", "word"), [(lambda x: x / 255, "0..255"), (lambda x: (x + 1) / 2, r"\[-1,1\]")], ids=["255", "signed"]
)
def test_a_remark_names_the_pixel_range_that_a_model_expects(before: Any, word: str) -> None:
    x, y = labelled(60)
    with pytest.warns(UserWarning, match=f"looks as if it expects pixels in {word}") as caught:
        report = evaluate(Wrapped(before), (x, y), attacks=["clean"], flags=False)
    assert str(caught[0].message) in report.remarks
    assert evaluate(conv_net(), (x, y), attacks=["clean"], flags=False).remarks == ()


def test_a_remark_says_that_a_model_expects_normalised_pixels() -> None:
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    class Normalised(nn.Module):
        """Tells images of more than one deviation above the mean from others."""

        def forward(self, x: Tensor) -> Tensor:
            above = x.mean((1, 2, 3)) - 1
            return torch.stack((above, -above), 1)

    random, y = torch.rand(60, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    x = (mean + deviation * torch.where(y == 0, 1.5, 0.5)[:, None])[:, :, None, None] + 0.1 * (random - 0.5)
    with pytest.warns(UserWarning, match=r"looks as if it expects normalised pixels .* 100\.0 % in that range"):
        report = evaluate(Normalised(), (x, y), attacks=["clean"], flags=False)
    (said,) = report.remarks
    assert "of 60 images it classifies 50.0 % correctly in [0,1], and 100.0 %" in said


def test_a_remark_names_images_in_01_that_were_cast_to_uint8() -> None:
    x, y = labelled()
    with pytest.warns(UserWarning, match="no pixel of the uint8 images is above 1"):
        evaluate(conv_net(), (x.round().to(torch.uint8), y), attacks=["clean"], flags=False)
