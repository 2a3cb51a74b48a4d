"""Copies of a network that compute the same logits up to rounding, faster: what attacks ask in the model's place."""

from fairbench.copies.half import HalfPrecision, multiplies_bf16
from fairbench.copies.rewritten import Folded, Rewritten, folded

__all__ = ["Folded", "HalfPrecision", "Rewritten", "folded", "multiplies_bf16"]
