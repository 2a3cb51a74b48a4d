"""Labelled images as plain arrays, validated once on construction, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from fairbench.errors import InvalidInput

__all__ = ["MAX_BYTES", "Dataset", "Split", "arrays_hash", "check_class_names", "content_hash"]

# A split is one array in memory. A file that claims more is refused before anything is allocated.
MAX_BYTES = 8 * 2**30


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels: `images` uint8 [N,H,W,C] with C 1 or 3, `labels` int64 [N], N at least 1.

    Raises InvalidInput for any other type or shape, and for a negative label.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            raise InvalidInput(f"images must be a uint8 array, got {_describe(images)}")
        if images.ndim != 4 or images.shape[3] not in (1, 3):
            raise InvalidInput(f"images must have the shape [N,H,W,C] with C 1 or 3, got {list(images.shape)}")
        if images.size == 0:
            raise InvalidInput(f"images must not be empty, got the shape {list(images.shape)}")
        if not isinstance(labels, np.ndarray) or labels.dtype != np.int64:
            raise InvalidInput(f"labels must be an int64 array, got {_describe(labels)}")
        if labels.shape != images.shape[:1]:
            raise InvalidInput(f"{len(images)} images need labels of shape [{len(images)}], got {list(labels.shape)}")
        if labels.min() < 0:
            raise InvalidInput(f"labels must not be negative, got {labels.min()} at position {labels.argmin()}")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split with the same classes.

    Raises InvalidInput if image shapes differ, a label has no class name or a class name is repeated.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        check_class_names(self.class_names)
        for where, split in (("train", self.train), ("test", self.test)):
            if split.labels.max() >= self.num_classes:
                raise InvalidInput(
                    f"dataset {self.name!r}: {where} label {split.labels.max()} at position {split.labels.argmax()} "
                    f"is out of range: there are {self.num_classes} classes"
                )
        train_shape, test_shape = self.train.images.shape[1:], self.test.images.shape[1:]
        if train_shape != test_shape:
            raise InvalidInput(
                f"dataset {self.name!r}: training images are {_by(train_shape)} but test images {_by(test_shape)}"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one image at a network's input."""
        height, width, channels = self.train.images.shape[1:]
        return channels, height, width

    @cached_property
    def hash(self) -> str:
        """sha256 of the class names and of the images and labels of both splits, as hex."""
        return content_hash(self.class_names, self.train, self.test)


def content_hash(class_names: tuple[str, ...], *splits: Split) -> str:
    """Return the sha256 hex of the class names and of each split's shape, images and labels (little-endian int64)."""
    return arrays_hash(class_names, *((split.images, split.labels) for split in splits))


def arrays_hash(class_names: tuple[str, ...], *splits: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> str:
    """Return the `content_hash` of arrays that need not be a `Split`: images [N,H,W,C] of any C, and labels [N]."""
    digest = sha256(repr(tuple(class_names)).encode())
    for images, labels in splits:
        digest.update(repr(images.shape).encode())
        digest.update(np.ascontiguousarray(images).data)
        digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()


def check_class_names(class_names: tuple[str, ...]) -> None:
    """Raise InvalidInput unless there are class names, distinct and not empty."""
    if not class_names or not all(isinstance(name, str) and name.strip() for name in class_names):
        raise InvalidInput(f"class names must be texts that are not empty, got {list(class_names)[:12]}")
    for name in class_names:
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise InvalidInput(
                f"class name {name!a} has half a surrogate pair, which can be neither printed nor stored"
            )
    if len(set(class_names)) < len(class_names):
        twice = next(name for name in class_names if class_names.count(name) > 1)
        raise InvalidInput(f"class name {twice!r} appears more than once")


def _describe(value: object) -> str:
    return f"{value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)
