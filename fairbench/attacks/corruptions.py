"""Corruptions: noise, blur, contrast, brightness and JPEG at severities 1 to 3, without a ball and without gradients.

The kinds are those of Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019. The strengths, in units of [0,1] and of the image's shorter side, are fairbench's own.
"""

from __future__ import annotations

import io
import math
from typing import Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from fairbench.attacks.projections import AnyNorm
from fairbench.attacks.random import ImageRNG
from fairbench.registration import register_attack

__all__ = ["blur", "brightness", "contrast", "jpeg", "noise"]

Severity = Literal[1, 2, 3]

_NOISE = (0.04, 0.08, 0.12)
_BLUR = (0.02, 0.04, 0.06)
_CONTRAST = (0.6, 0.4, 0.2)
_BRIGHTNESS = (0.1, 0.2, 0.3)
_JPEG = (50, 25, 10)


@register_attack("noise", summary="corruption: Gaussian noise, severity=1, 2 or 3", ball=False)
def noise(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: AnyNorm = "Linf", severity: Severity = 2, rng: ImageRNG
) -> Tensor:
    """Return x float32 [B,C,H,W] plus noise of standard deviation 0.04, 0.08 or 0.12, clipped to [0,1]."""
    return (x + _NOISE[severity - 1] * rng.normal(x.shape)).clamp_(0.0, 1.0)


@register_attack("blur", summary="corruption: Gaussian blur, severity=1, 2 or 3", ball=False)
def blur(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: AnyNorm = "Linf", severity: Severity = 2, rng: ImageRNG
) -> Tensor:
    """Return x after a Gaussian of standard deviation 2, 4 or 6 % of the shorter side; edges are repeated."""
    sigma = _BLUR[severity - 1] * min(x.shape[2:])
    reach = max(1, math.ceil(3 * sigma))
    weights = torch.exp(-torch.arange(-reach, reach + 1, device=x.device).square() / (2 * sigma**2))
    weights = (weights / weights.sum()).to(x.dtype)
    planes = F.pad(x, (reach, reach, reach, reach), mode="replicate").flatten(0, 1)[:, None]
    planes = F.conv2d(F.conv2d(planes, weights[None, None, None]), weights[None, None, :, None])
    return planes.view(x.shape).clamp_(0.0, 1.0)


@register_attack("contrast", summary="corruption: less contrast, severity=1, 2 or 3", ball=False)
def contrast(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: AnyNorm = "Linf", severity: Severity = 2, rng: ImageRNG
) -> Tensor:
    """Return x with distances to each channel's mean shrunk to 0.6, 0.4 or 0.2 of what they were."""
    mean = x.mean((2, 3), keepdim=True)
    return torch.lerp(mean, x, _CONTRAST[severity - 1]).clamp_(0.0, 1.0)


@register_attack("brightness", summary="corruption: more light, severity=1, 2 or 3", ball=False)
def brightness(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: AnyNorm = "Linf", severity: Severity = 2, rng: ImageRNG
) -> Tensor:
    """Return x plus 0.1, 0.2 or 0.3, clipped to [0,1]."""
    return (x + _BRIGHTNESS[severity - 1]).clamp_(0.0, 1.0)


@register_attack("jpeg", summary="corruption: JPEG compression, severity=1, 2 or 3", ball=False)
def jpeg(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: AnyNorm = "Linf", severity: Severity = 2, rng: ImageRNG
) -> Tensor:
    """Return x after JPEG of quality 50, 25 or 10 and back, image by image on the CPU; C is 1 or 3."""
    return torch.stack([_compress(image, _JPEG[severity - 1]) for image in x.cpu()]).to(x)


def _compress(image: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    to_pil_image((image * 255).round().to(torch.uint8)).save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as opened:
        pixels: Tensor = pil_to_tensor(opened)
        return pixels.to(torch.float32) / 255.0
