"""Datasets, and the loader that keeps them on a device.

Reading a dataset needs no torch. The loader does, so that its names are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fairbench.data.dataset import Dataset, Split, content_hash
from fairbench.data.sources import data_root, download, find_datasets, load_dataset, load_test
from fairbench.data.split import balanced_subset, hold_out

if TYPE_CHECKING:
    from fairbench.data.loader import Augmentation, Loader, to_unit

__all__ = [
    "Augmentation",
    "Dataset",
    "Loader",
    "Split",
    "balanced_subset",
    "content_hash",
    "data_root",
    "download",
    "find_datasets",
    "hold_out",
    "load_dataset",
    "load_test",
    "to_unit",
]


def __getattr__(name: str) -> Any:
    if name not in {"Augmentation", "Loader", "to_unit"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fairbench.data import loader

    return getattr(loader, name)
