from __future__ import annotations

import numpy as np
import torch
from torch import nn

import miniature
from fairbench.data import Loader
from fairbench.suites.sections import Recipe
from fairbench.train.teacher import RememberingTeacher, never_augments


class Asked(nn.Module):
    """A linear teacher that counts the images that it sees."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.images = nn.Linear(4, 3), 0

    def forward(self, x):
        self.images += len(x)
        return self.linear(x.flatten(1))


def test_a_teacher_is_asked_once_about_each_training_image_and_always_about_others():
    images = np.random.default_rng(0).integers(0, 256, (7, 2, 2, 1), dtype=np.uint8)
    # positions with gaps: what is held out has no row
    index = np.array([0, 1, 2, 4, 5, 6, 9])
    loader = Loader(images, np.arange(7) % 3, index=index, device="cpu", batch_size=3, seed=0, augment=None)
    teacher = Asked()
    remembering = RememberingTeacher(teacher, loader, train_size=10)
    assert teacher.images == 7
    for epoch in (0, 1):
        for batch in loader.epoch(epoch):
            remembering.at(batch)
            assert torch.allclose(remembering(batch.x), teacher.linear(batch.x.flatten(1)), atol=1e-6)
            assert teacher.images == 7
    remembering(batch.x.clone())  # adversarial inputs are other tensors
    assert teacher.images == 7 + len(batch.x)


def test_only_a_run_that_never_augments_may_remember():
    plain, fairat = miniature.set_up("sat", Asked()), miniature.set_up("fairat", Asked())
    still = Recipe(crop_padding=0, flip=False)
    assert never_augments(still, plain)
    assert not never_augments(still, fairat)
    assert not never_augments(Recipe(crop_padding=0, flip=True), plain)
    assert not never_augments(Recipe(crop_padding=2, flip=False), plain)
