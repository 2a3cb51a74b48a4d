"""Remarks on a model and its images from a first look; they accompany every figure of the evaluation."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from fairbench.data.split import first_of_each_class
from fairbench.errors import InvalidInput
from fairbench.evaluation.edge import at_edge, logits
from fairbench.evaluation.pixels import Pixels, arranged, as_input, as_labels
from fairbench.evaluation.victim import held

__all__ = ["look_over"]

_IMAGES = 100
_GAIN, _ENOUGH = 0.3, 0.5
_OTHER_AXES = (
    "the images have their axes in another order than documented (NumPy arrays [N,H,W,C], tensors [N,C,H,W]); "
    "their shape and the model say which"
)
_BLACK = "no pixel of the uint8 images is above 1: they look like images in [0,1] that were cast to uint8"
# Common pixel ranges other than [0,1], as functions of images x [B,C,H,W]; the last one is for three channels.
# The remark names the first of several ranges with equal accuracy: images scaled to 0..255 saturate a network and are
# often classified as well as those in its own range.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "pixels in [-1,1] (wrap it in a module that computes 2 * x - 1)": lambda x: 2 * x - 1,
    "pixels in 0..255 (wrap it in a module that multiplies by 255)": lambda x: 255 * x,
    "normalised pixels (wrap it in a module that subtracts the mean and divides by the deviation of ImageNet)": (
        lambda x: (x - x.new_tensor(_MEAN)[:, None, None]) / x.new_tensor(_STD)[:, None, None]
    ),
}


def look_over(
    model: nn.Module,
    images: Pixels,
    labels: ArrayLike,
    device: str | torch.device | None = None,
    names: Callable[[int], object] = lambda classes: None,
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the images as [N,C,H,W], and remarks on the model and the images.

    A remark says that the order of axes is not the documented one, that the images are black, that the model changes
    its input, or that it seems to expect another pixel range than [0,1]: with that range it classifies the first images
    of every class, _IMAGES in all, by 30 points better and at least half of them correctly. The state of torch's random
    generators is left unchanged. `names` is called with the number of logits, so that it can refuse them before any
    attack. Raises InvalidInput as `arranged`, `at_edge` and `names` do.
    """
    with (
        held(model, device) as where,
        torch.random.fork_rng([where] if where.type == "cuda" else []),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")

        def accepts(pixels: Tensor) -> bool:
            try:
                at_edge(model, as_input(pixels, where))
            except InvalidInput:
                return False
            return True

        pixels, is_other = arranged(images, accepts)
        truth = as_labels(labels, len(pixels))
        chosen = torch.from_numpy(first_of_each_class(truth, _IMAGES))
        x, y = as_input(pixels[chosen.to(pixels.device)], where), torch.from_numpy(truth)[chosen].to(where)
        model, classes = at_edge(model, x[:2])
        names(classes)
        expected = _expected(model, x, y)
    said = [
        str(warning.message) for warning in caught if str(warning.message).startswith("the model changes its input")
    ]
    found = [_OTHER_AXES] if is_other else []
    if pixels.dtype == torch.uint8 and int(pixels.max()) == 1:
        found.append(_BLACK)
        expected = []  # the images are the problem, not the model
    return pixels, (*found, *dict.fromkeys(said), *expected)


def _expected(model: nn.Module, x: Tensor, y: Tensor) -> list[str]:
    """Return a remark on the pixel range that a model seems to expect, if it is another one."""
    with suppress(InvalidInput):
        plain, constant = _accuracy(model, x, y), float(y.bincount().max()) / len(y)
        tried = list(_RANGES.items())[: 3 if x.shape[1] == len(_MEAN) else 2]
        if plain > 1 - _GAIN:
            return []
        shares = {}
        for name, change in tried:
            with suppress(InvalidInput):
                shares[name] = _accuracy(model, change(x), y)
        best = max(shares, key=lambda name: shares[name], default=None)
        if best is None:
            return []
        if shares[best] >= max(_ENOUGH, plain + _GAIN, constant + _GAIN) and (shares[best] - plain) * len(y) >= 4:
            return [
                f"the model looks as if it expects {best}: of {len(y)} images it classifies {100 * plain:.1f} % "
                f"correctly in [0,1], and {100 * shares[best]:.1f} % in that range"
            ]
    return []


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float(np.mean([bool(right) for right in logits(model, x).argmax(1) == y]))
