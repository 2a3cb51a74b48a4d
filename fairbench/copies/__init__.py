"""Faster copies of a network, with the same logits up to rounding: attacks craft images with them."""

from fairbench.copies.counted import Counted
from fairbench.copies.engine import Engine, default_engine, float32_copy, name_of, require
from fairbench.copies.graphed import Graphed
from fairbench.copies.half import HalfPrecision, multiplies_bf16
from fairbench.copies.rewritten import Folded, Rewritten, folded
from fairbench.copies.tf32 import rounded_products

__all__ = [
    "Counted",
    "Engine",
    "Folded",
    "Graphed",
    "HalfPrecision",
    "Rewritten",
    "default_engine",
    "float32_copy",
    "folded",
    "multiplies_bf16",
    "name_of",
    "require",
    "rounded_products",
]
