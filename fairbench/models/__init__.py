"""Network architectures, and the checkpoints that hold their weights."""

from __future__ import annotations

from fairbench.models.architectures import Normalize, build_model, normalized
from fairbench.models.checkpoint import Metadata, load_checkpoint, save_checkpoint, weights_hash
from fairbench.models.layout import place
from fairbench.models.opening import open_model

__all__ = [
    "Metadata",
    "Normalize",
    "build_model",
    "load_checkpoint",
    "normalized",
    "open_model",
    "place",
    "save_checkpoint",
    "weights_hash",
]
