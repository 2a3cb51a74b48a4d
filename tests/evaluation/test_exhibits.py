from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fairbench.attacks import Ball
from fairbench.errors import InvalidInput
from fairbench.evaluation.exhibits import exhibit

# Twelve grey images of two pixels; a model that calls an image 1 as soon as the first pixel is above one half, 2 never.
LEVELS = torch.tensor([0.1, 0.28, 0.44, 0.48, 0.56, 0.68, 0.9, 1.0])
IMAGES = torch.stack([LEVELS, torch.zeros(8)], dim=1)[:, None, None, :]
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])


class Threshold(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(10.0))
        self.classes = classes

    def forward(self, x):
        edge = self.slope * (x[:, 0, 0, 0] - 0.5)
        rest = [torch.full_like(edge, -50.0)] * (self.classes - 2)
        return torch.stack([-edge, edge, *rest], dim=1)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_everything_by_hand(norm):
    """At eps 0.1 exactly the images between 0.4 and 0.6 can be brought to the other side, and none to class 2."""
    stages = []
    found = exhibit(Threshold(), IMAGES, LABELS, Ball(norm, 0.1), progress=lambda *step: stages.append(step))
    assert found.attack == "pgd-20:rel_step=0.25"
    assert found.eps == pytest.approx((0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2))
    assert np.isnan(found.curve[:, 2]).all()
    assert found.curve[:, 0].tolist() == [1.0, 0.75, 0.75, 0.5, 0.5, 0.5, 0.5]
    assert found.curve[:, 1].tolist() == [1.0, 1.0, 1.0, 0.75, 0.75, 0.75, 0.5]
    assert (found.images, found.flow_images) == (8, 8)
    assert found.flow[:2].tolist() == [[1.0, 0.5, 0.0], [0.25, 1.0, 0.0]]
    assert np.isnan(found.flow[2]).all()
    assert [(one.index, one.label, one.predicted) for one in found.broken] == [(2, 0, 1), (3, 0, 1), (4, 1, 0)]
    assert stages[-1] == ("flow between classes", 1, 1)


def test_a_picture_is_the_image_and_one_in_the_ball_around_it():
    for one in exhibit(Threshold(), IMAGES, LABELS, Ball("Linf", 0.1)).broken:
        assert one.original.shape == one.adversarial.shape == (1, 2, 1)
        assert np.array_equal(one.original[..., 0], IMAGES[one.index, 0].numpy())
        assert 0 < np.abs(one.adversarial - one.original).max() <= 0.1 + 1e-6


def test_l1_has_a_curve_and_no_flow():
    found = exhibit(Threshold(), IMAGES, LABELS, Ball("L1", 0.1))
    assert found.attack == "apgd-ce-20"
    assert found.flow is None
    assert found.curve[0, :2].tolist() == [1.0, 1.0]
    assert found.curve[-1, 0] <= 0.5


def test_more_classes_than_a_matrix_can_show_have_no_flow():
    assert exhibit(Threshold(classes=21), IMAGES, LABELS, Ball("Linf", 0.1)).flow is None


def test_no_eps_breaks_nothing():
    found = exhibit(Threshold(), IMAGES, LABELS, Ball("Linf", 0.0))
    assert (found.curve[:, :2] == 1).all()
    assert found.broken == ()


def test_the_model_is_left_as_it_was():
    model = Threshold().train()
    exhibit(model, IMAGES, LABELS, Ball("Linf", 0.1))
    assert model.training
    assert model.slope.requires_grad
    assert model.slope.grad is None


def test_images_that_are_none_are_refused():
    with pytest.raises(InvalidInput, match="outside"):
        exhibit(Threshold(), IMAGES * 255, LABELS, Ball("Linf", 0.1))
