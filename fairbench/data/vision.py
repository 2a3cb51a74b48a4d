"""The datasets that torchvision downloads and verifies; torch is imported only when one is opened."""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from fairbench.data.cifar import BINARY, CIFAR100_HASH, EXACT_HASH, exact, read_binary, verified
from fairbench.data.dataset import Dataset, Split
from fairbench.errors import CorruptFile, InvalidInput, Missing
from fairbench.registration import register_dataset

__all__ = ["FILES", "SOURCES", "cifar10", "cifar10_exact", "cifar100", "fetch_vision", "is_present", "mnist", "svhn"]

# A file or folder of each dataset in the data folder, by which a missing dataset differs from a damaged one.
FILES = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "mnist": "MNIST/raw",
    "svhn": "train_32x32.mat",
}
# The datasets of this module by name, and the key of `FILES` that each is read from.
SOURCES = {name: name for name in FILES} | {"cifar10-exact": "cifar10"}
DIGITS = tuple("0123456789")


@register_dataset("cifar10", summary="60,000 photographs of 10 classes, 32x32 RGB (Krizhevsky, 2009)", classes=10)
def cifar10(root: Path) -> Dataset:
    """Read CIFAR-10 from `root`; raises Missing or CorruptFile."""
    return _open("cifar10", root)


@register_dataset(
    "cifar10-exact",
    summary="CIFAR-10 without the 95 images that some copies hold only as a JPEG approximation",
    classes=10,
)
def cifar10_exact(root: Path) -> Dataset:
    """Read CIFAR-10 without 75 training and 20 test images (`fairbench.data.cifar`), from the files of `cifar10`.

    The binary version and the one that `datasets get cifar10` downloads are equally suited: the verified content hash
    is the same. Raises Missing or CorruptFile.
    """
    if (root / FILES["cifar10"]).exists():
        whole = _open("cifar10", root)
    elif is_present("cifar10-exact", root):
        whole = read_binary("cifar10", root)
    else:
        raise Missing(f"dataset 'cifar10-exact' is not in {root}; get it with: fairbench datasets get cifar10")
    return verified(exact(whole), EXACT_HASH, root)


@register_dataset("cifar100", summary="60,000 photographs of 100 classes, 32x32 RGB (Krizhevsky, 2009)", classes=100)
def cifar100(root: Path) -> Dataset:
    """Read CIFAR-100 with its fine labels, Python or binary version, from `root`; raises Missing or CorruptFile."""
    if not (root / FILES["cifar100"]).exists() and is_present("cifar100", root):
        return verified(read_binary("cifar100", root), CIFAR100_HASH, root / BINARY["cifar100"][0])
    return _open("cifar100", root)


@register_dataset("svhn", summary="99,289 house-number digits, 32x32 RGB (Netzer et al., 2011)", classes=10)
def svhn(root: Path) -> Dataset:
    """Read SVHN, cropped digits without the extra split, from `root`; raises Missing or CorruptFile."""
    return _open("svhn", root)


@register_dataset("mnist", summary="70,000 handwritten digits, 28x28 grey (LeCun et al., 1998)", classes=10)
def mnist(root: Path) -> Dataset:
    """Read MNIST from `root`; raises Missing or CorruptFile."""
    return _open("mnist", root)


def is_present(name: str, root: Path) -> bool:
    """Tell whether the files of a dataset of this module are in `root`; none is opened."""
    source = SOURCES[name]
    binary = source in BINARY and name != "cifar10" and (root / BINARY[source][0]).exists()
    return binary or (root / FILES[source]).exists()


def fetch_vision(name: str, root: Path) -> None:
    """Download a dataset of `FILES` into `root` unless it is present; raises Missing if the network fails."""
    root.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            for train in (True, False):
                _read(name, root, train=train, download=True)
    except Exception as error:  # urllib, http.client, tarfile and torchvision each raise errors of their own
        reason = " ".join(str(error).split())[:200]
        raise Missing(f"dataset {name!r} could not be downloaded to {root}: {type(error).__name__}: {reason}") from None


def _open(name: str, root: Path) -> Dataset:
    if not (root / FILES[name]).exists():
        raise Missing(f"dataset {name!r} is not in {root}; get it with: fairbench datasets get {name}")
    try:
        train, class_names = _read(name, root, train=True)
        test, _ = _read(name, root, train=False)
    except (
        RuntimeError,
        ValueError,
        AssertionError,
        OSError,
        InvalidInput,
    ):  # a wrong checksum, a missing or truncated file
        raise CorruptFile(
            f"{root / FILES[name]}: incomplete or damaged; delete it and run: fairbench datasets get {name}"
        ) from None
    return Dataset(name, train, test, class_names)


def _read(name: str, root: Path, *, train: bool, download: bool = False) -> tuple[Split, tuple[str, ...]]:
    """Read one split by torchvision, which verifies checksums before it opens a file."""
    from torchvision import datasets

    where: dict[str, Any] = {"root": root, "download": download}
    with warnings.catch_warnings():
        # CIFAR's pickles pass integers for booleans to dtype(), about which newer versions of numpy warn.
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        if name == "svhn":
            source = datasets.SVHN(split="train" if train else "test", **where)
            return _split(source.data.transpose(0, 2, 3, 1), source.labels), DIGITS
        if name == "mnist":
            source = datasets.MNIST(train=train, **where)
            return _split(source.data.numpy()[..., None], source.targets), DIGITS
        source = (datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100)(train=train, **where)
        return _split(source.data, source.targets), tuple(source.classes)


def _split(images: Any, labels: Any) -> Split:
    return Split(np.ascontiguousarray(images), np.asarray(labels, dtype=np.int64))
