"""Evaluation on a CUDA device with too little memory for its batches: smaller batches, and the same verdicts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from fairbench.attacks import Ball, resolve
from fairbench.evaluation.judge import attack_verdicts
from fairbench.evaluation.verdicts import Verdicts
from fairbench.models import build_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")]

IMAGES = 512
ATTACKS = ["clean", "pgd-3:rel_step=0.5"]


@contextmanager
def _at_most(held: int) -> Iterator[None]:
    """Leave the process `held` bytes of the device's memory."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(held / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def _evaluate() -> Verdicts:
    """The verdicts on all images in one batch, by an untrained ResNet-18.

    An untrained network predicts one class for all images; the bias takes away what their logits have in common.
    """
    torch.manual_seed(0)
    model = build_model("resnet18", num_classes=10, shape=(3, 32, 32)).to(memory_format=torch.channels_last)
    rng = np.random.default_rng(0)
    images = np.clip(rng.integers(0, 256, (IMAGES, 1, 1, 3)) + rng.integers(-30, 31, (IMAGES, 32, 32, 3)), 0, 255)
    images = images.astype(np.uint8)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(images[:64]).permute(0, 3, 1, 2).float() / 255)
        bias = [value for value in model.parameters() if value.shape == (10,)][-1]
        bias -= logits.mean(0)
    attacks = [resolve(text, Ball("Linf", 0.002)) for text in ATTACKS]
    return attack_verdicts(model, images, np.arange(IMAGES) % 10, attacks, batch_size=IMAGES, device="cuda")


def test_where_memory_is_short_batches_are_halved_and_the_verdicts_stay():
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    expected = _evaluate()
    needed = torch.cuda.max_memory_allocated()
    with _at_most(int(0.6 * needed)), pytest.warns(UserWarning, match="out of memory") as warned:
        found = _evaluate()
    said = [str(one.message) for one in warned if "out of memory" in str(one.message)]
    assert said[0] == f"out of memory with {IMAGES} images at once: continuing with {IMAGES // 2}"
    pattern = r"out of memory with (\d+) images at once: continuing with (\d+)"
    sizes = [tuple(map(int, match.groups())) for line in said if (match := re.fullmatch(pattern, line))]
    assert len(sizes) == len(said)
    assert all(before // 2 == after for before, after in sizes)
    # Kernels are chosen by the size of a batch, and round differently.
    assert all(np.mean(found[text] == expected[text]) >= 0.995 for text in expected)
    assert len(np.unique(expected["clean"])) > 1
