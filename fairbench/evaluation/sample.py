"""The images and labels of an evaluation, from every kind of dataset that users have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fairbench.data.dataset import Dataset
from fairbench.data.sources import load_test
from fairbench.data.split import first_of_each_class
from fairbench.errors import InvalidInput
from fairbench.evaluation.pixels import Pixels, as_labels, gathered

__all__ = ["Sample", "open_sample"]

# Usual names of image and label columns, for datasets that do not declare them.
_IMAGES = ("image", "img", "images", "pixel_values")
_LABELS = ("label", "labels", "fine_label")


@dataclass(frozen=True, eq=False)
class Sample:
    """Images, labels and class names of an evaluation; `subset_of` is the size of the dataset if they are a part of it.

    `declared` says that the dataset has exactly the classes of `class_names`. Otherwise the classes are a guess, which
    a model with another number of logits overrules.
    """

    images: Pixels
    labels: ArrayLike
    class_names: tuple[str, ...] | None = None
    declared: bool = False
    subset_of: int | None = None

    def names(self, num_classes: int) -> tuple[str, ...]:
        """Return a name for each logit of a model; raises InvalidInput if the dataset has other classes."""
        if self.class_names is not None and len(self.class_names) == num_classes:
            return self.class_names
        if self.class_names is not None and self.declared:
            raise InvalidInput(f"the model has {num_classes} logits, the dataset {len(self.class_names)} classes")
        return tuple(str(number) for number in range(num_classes))


def open_sample(dataset: Any, limit: int | None = None) -> Sample:
    """Return the images and labels of a dataset, as `evaluate` accepts it, or `limit` of them.

    The subset holds the first image of every class, then the second of every class, and so on, in the dataset's order.
    Raises InvalidInput for an unknown kind of dataset and for a limit below the number of classes, and the errors of
    opening a dataset.
    """
    if limit is not None and (isinstance(limit, bool) or not hasattr(limit, "__index__") or limit < 1):
        raise InvalidInput(f"limit must be a number of images, not {limit!r}")
    if _is_hugging_face(dataset):
        return _from_columns(dataset, limit)
    sample = _opened(dataset)
    if limit is None:
        return sample
    labels = as_labels(sample.labels, len(sample.images))
    chosen = _chosen(labels, limit)
    if chosen is None:
        return sample
    images: Any = sample.images
    if isinstance(images, Tensor | np.ndarray):
        images = images[torch.from_numpy(chosen).to(images.device) if isinstance(images, Tensor) else chosen]
    else:
        images = [images[int(number)] for number in chosen]
    return replace(sample, images=images, labels=labels[chosen], subset_of=len(labels))


def _opened(dataset: Any) -> Sample:
    """Return all images and labels of a dataset."""
    if isinstance(dataset, str):
        split, class_names = load_test(dataset)
        return Sample(split.images, split.labels, class_names, declared=True)
    if isinstance(dataset, Dataset):
        return Sample(dataset.test.images, dataset.test.labels, dataset.class_names, declared=True)
    if isinstance(dataset, tuple | list) and len(dataset) == 2:
        return Sample(dataset[0], dataset[1])
    if isinstance(dataset, torch.utils.data.Dataset | torch.utils.data.DataLoader | Iterator):
        return Sample(*gathered(dataset), _classes(dataset))
    raise InvalidInput(
        "dataset must be a name, a Dataset, a DataLoader, a torch Dataset, a Hugging Face dataset, or a pair of images "
        f"and labels, not {type(dataset).__name__}"
    )


def _chosen(labels: NDArray[np.int64], limit: int | None) -> NDArray[np.int64] | None:
    """Return the positions of a class-balanced subset, ascending; None if all images are within the limit."""
    if limit is None or limit >= len(labels):
        return None
    classes = len(np.unique(labels))
    if limit < classes:
        raise InvalidInput(f"limit {limit} leaves classes without an image: there are {classes}")
    return first_of_each_class(labels, limit)


def _classes(dataset: Any) -> tuple[str, ...] | None:
    """Return the class names of a torchvision dataset, also of one that a DataLoader reads; None for any other."""
    found = getattr(getattr(dataset, "dataset", dataset), "classes", None)
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        return None
    return tuple(found) if len(set(found)) == len(found) > 0 else None


def _is_hugging_face(dataset: Any) -> bool:
    """Whether an object has the interface of the library `datasets`: a dataset, or a dictionary of splits."""
    return hasattr(dataset, "column_names") and (hasattr(dataset, "features") or isinstance(dataset, Mapping))


def _from_columns(dataset: Any, limit: int | None) -> Sample:
    """Read the image and the label column of a Hugging Face dataset, of a subset only those rows."""
    if isinstance(dataset, Mapping):
        raise InvalidInput(f"dataset has the splits {', '.join(map(str, dataset))}: give one, as dataset['test']")
    features = dataset.features or {}
    image = _column(dataset, "image", [name for name in features if _kind(features[name]) == "Image"], _IMAGES)
    label = _column(dataset, "label", [name for name in features if _kind(features[name]) == "ClassLabel"], _LABELS)
    names = getattr(features.get(label), "names", None)
    class_names = tuple(map(str, names)) if names else None
    count: int | None = None
    if hasattr(dataset, "select"):  # a streamed dataset has no rows by number
        labels = as_labels(np.array(list(dataset[label])), len(dataset))
        chosen = _chosen(labels, limit)
        if chosen is not None:
            dataset, count = dataset.select(chosen.tolist()), len(labels)
        images, labels = gathered((row[image], row[label]) for row in dataset)
        return Sample(images, labels, class_names, class_names is not None, count)
    images, labels = gathered((row[image], row[label]) for row in dataset)
    whole = open_sample((images, labels), limit)
    return replace(whole, class_names=class_names, declared=class_names is not None)


def _column(dataset: Any, what: str, typed: Sequence[str], usual: Sequence[str]) -> str:
    """Return the only column of a kind; raises InvalidInput if there is none or more than one."""
    known = list(dataset.column_names or dataset.features or ())
    found = typed or [name for name in usual if name in known][:1]
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidInput(
            f"dataset has the {what} columns {', '.join(found)}: keep one, as with dataset.remove_columns({found[1]!r})"
        )
    raise InvalidInput(f"dataset has no {what} column among {', '.join(map(str, known)) or 'none'}")


def _kind(feature: Any) -> str:
    return type(feature).__name__
