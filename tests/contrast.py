"""The contrast of colours by WCAG 2.1."""

from __future__ import annotations

import numpy as np

__all__ = ["contrast", "rgb"]


def rgb(text: str) -> np.ndarray:
    """The sRGB values in 0..1 of a colour that is written as six hexadecimal digits."""
    return np.array([int(text[i : i + 2], 16) for i in (0, 2, 4)]) / 255


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    """The contrast of two sRGB colours, 1 to 21."""
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: np.ndarray) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
