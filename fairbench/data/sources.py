"""Opening a dataset by name: registered names, `npz:TRAIN,TEST` and `folder:DIR`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from fairbench.data.dataset import Dataset, Split
from fairbench.data.folder import read_folder
from fairbench.data.npz import read_npz
from fairbench.data.split import balanced_subset, hold_out
from fairbench.errors import InvalidInput, Missing
from fairbench.files import at_home
from fairbench.registration import register_dataset
from fairbench.registry import datasets

__all__ = ["data_root", "digits", "download", "find_datasets", "load_dataset", "load_test"]


@register_dataset(
    "digits", summary="1,797 handwritten digits, 8x8 grey, shipped with scikit-learn: needs no download", classes=10
)
def digits(root: Path) -> Dataset:
    """Read scikit-learn's digits, their 17 grey levels spread over 0..255; the test split has 50 images a class."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images = ((source.images * 255 + 8) // 16).astype(np.uint8)[..., None]
    labels = source.target.astype(np.int64)
    train, test = hold_out(labels, per_class=50, seed=0)
    splits = [Split(images[index], labels[index]) for index in (train, test)]
    return Dataset("digits", splits[0], splits[1], class_names=tuple("0123456789"))


def load_dataset(name: str, root: Path | None = None, *, train_per_class: int | None = None) -> Dataset:
    """Open a dataset by registered name, `npz:TRAIN,TEST` or `folder:DIR`, which contains `train` and `test` or `val`.

    `root` is the folder of downloaded datasets, `data_root()` by default; nothing is downloaded. `train_per_class`
    keeps the first images of every class in the training split. Raises UnknownName, InvalidInput, Missing (with the
    command that downloads the dataset) or CorruptFile.
    """
    dataset = _open(name, root)
    if train_per_class is None:
        return dataset
    return replace(dataset, train=balanced_subset(dataset.train, train_per_class))


def load_test(name: str, root: Path | None = None) -> tuple[Split, tuple[str, ...]]:
    """Open the test split and the class names, on which a trained model is evaluated.

    As `load_dataset`; `npz:FILE` with a single file is the test split itself, and so is `folder:DIR` with a sub-folder
    per class.
    """
    prefix, _, rest = name.partition(":")
    if prefix == "npz" and rest and "," not in rest:
        split, class_names = read_npz(_path(rest))
        return split, class_names or _numbered(rest, split)
    if prefix == "folder" and rest and not _has_splits(_path(rest)):
        return read_folder(_path(rest))
    dataset = load_dataset(name, root)
    return dataset.test, dataset.class_names


def download(name: str, root: Path | None = None) -> Dataset:
    """Download a registered dataset unless it is present, and open it; raises as `load_dataset` does."""
    from fairbench.data import tiny_imagenet, vision

    root = root or data_root()
    if name in vision.SOURCES:
        vision.fetch_vision(vision.SOURCES[name], root)
    elif name == "tiny-imagenet":
        tiny_imagenet.fetch_tiny_imagenet(root)
    return load_dataset(name, root)


def find_datasets() -> dict[str, str]:
    """Return where each registered dataset is, by name, or the command that downloads it; none is opened."""
    from fairbench.data.tiny_imagenet import ARCHIVE
    from fairbench.data.vision import SOURCES, is_present

    root, found = data_root(), {}
    for name, entry in datasets.scan().items():
        if name in SOURCES or name == "tiny-imagenet":
            there = is_present(name, root) if name in SOURCES else (root / ARCHIVE).exists()
            get = f"missing; get it with: fairbench datasets get {SOURCES.get(name, name)}"
            found[name] = f"found in {root}" if there else get
        elif entry.module.startswith("fairbench."):
            found[name] = "needs no download"
        else:
            found[name] = f"registered by {entry.module or entry.path}, not looked for"
    return found


def data_root() -> Path:
    """Return the folder of downloaded datasets: $FAIRBENCH_DATA, or ~/.cache/fairbench/data."""
    return at_home(os.environ.get("FAIRBENCH_DATA") or "~/.cache/fairbench/data")


def _open(name: str, root: Path | None) -> Dataset:
    prefix, _, rest = name.partition(":")
    if prefix == "npz":
        return _from_npz(name, rest)
    if prefix == "folder":
        return _from_folder(name, _path(rest))
    dataset = datasets.get(name)(root or data_root())
    if not isinstance(dataset, Dataset):
        raise InvalidInput(f"dataset {name!r}: its function returned {type(dataset).__name__}, not a Dataset")
    return dataset


def _from_npz(name: str, rest: str) -> Dataset:
    train_file, _, test_file = rest.partition(",")
    if not train_file or not test_file:
        raise InvalidInput(f"{name!r}: expected npz:TRAIN,TEST with a file for each split")
    train, train_names = read_npz(_path(train_file))
    test, test_names = read_npz(_path(test_file))
    if train_names and test_names and train_names != test_names:
        raise InvalidInput(f"{name!r}: the two files have different class_names")
    return Dataset(name, train, test, train_names or test_names or _numbered(train_file, train))


def _from_folder(name: str, directory: Path) -> Dataset:
    test_folder = directory / ("test" if (directory / "test").is_dir() else "val")
    if not (directory / "train").is_dir() or not test_folder.is_dir():
        raise Missing(f"{name!r}: expected the folders {directory}/train and {directory}/test (or val)")
    train, class_names = read_folder(directory / "train")
    test, test_names = read_folder(test_folder)
    if class_names != test_names:
        odd = sorted(set(class_names) ^ set(test_names))
        raise InvalidInput(f"{name!r}: classes that are in one split only: {', '.join(odd[:12])}")
    return Dataset(name, train, test, class_names)


def _has_splits(directory: Path) -> bool:
    """Whether a sub-folder is a split, which contains folders; a class may be called `train`, and contains pictures."""
    splits = [directory / name for name in ("train", "test", "val")]
    return any(entry.is_dir() for split in splits if split.is_dir() for entry in split.iterdir())


def _path(text: str) -> Path:
    """Return a path with `~` expanded, which a shell does not do inside `npz:~/data.npz`."""
    return at_home(text) if text.startswith("~/") else Path(text)


def _numbered(file: str, split: Split) -> tuple[str, ...]:
    """Name classes by number; raises InvalidInput if a class between 0 and C-1 has no image."""
    present = np.unique(split.labels)
    if present[-1] >= len(present):
        gap = np.setdiff1d(np.arange(len(present)), present)[0]
        raise InvalidInput(
            f"{file}: labels must be 0 to C-1, each at least once, but {gap} is absent while {present[-1]} is present; "
            "an array class_names says which classes there are"
        )
    return tuple(str(label) for label in range(len(present)))
