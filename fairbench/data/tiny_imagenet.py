"""Tiny-ImageNet: 200 classes of ImageNet at 64x64 pixels, 500 training and 50 test images each.

Source: Le and Yang, "Tiny ImageNet Visual Recognition Challenge", Stanford CS 231N, 2015. The labels of the challenge's
own test images were never published; its validation images are the test split here, as in the literature.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path
from urllib.request import urlopen

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fairbench.data.dataset import Dataset, Split
from fairbench.errors import CorruptFile, InvalidInput, Missing
from fairbench.files import atomic
from fairbench.registration import register_dataset

__all__ = ["ARCHIVE", "fetch_tiny_imagenet", "tiny_imagenet"]

ARCHIVE = "tiny-imagenet-200.zip"
URL = f"http://cs231n.stanford.edu/{ARCHIVE}"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
SIDE = 64
TOP = "tiny-imagenet-200"


@register_dataset(
    "tiny-imagenet", summary="110,000 photographs of 200 classes, 64x64 RGB (Le and Yang, 2015)", classes=200
)
def tiny_imagenet(root: Path) -> Dataset:
    """Read Tiny-ImageNet from its archive in `root`, verified by md5; raises Missing or CorruptFile.

    Class names are the WordNet ids of `wnids.txt`, sorted as torchvision's ImageFolder sorts folders.
    """
    path = root / ARCHIVE
    if not path.is_file():
        raise Missing(f"dataset 'tiny-imagenet' is not in {root}; get it with: fairbench datasets get tiny-imagenet")
    if _md5(path) != MD5:
        raise CorruptFile(f"{path}: not the published archive; delete it and run: fairbench datasets get tiny-imagenet")
    try:
        with zipfile.ZipFile(path) as archive:
            names = tuple(sorted(archive.read(f"{TOP}/wnids.txt").decode().split()))
            number = {name: label for label, name in enumerate(names)}
            train = _split(archive, _training(archive, number))
            test = _split(archive, _validation(archive, number))
            return Dataset("tiny-imagenet", train, test, names)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, InvalidInput) as error:
        raise CorruptFile(f"{path}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from None


def fetch_tiny_imagenet(root: Path) -> None:
    """Download the archive into `root` unless it is present; raises Missing if the network fails."""
    path = root / ARCHIVE
    if path.is_file():
        return
    root.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, temporary.open("wb") as target:
        for piece in _downloaded():
            target.write(piece)


def _downloaded() -> Iterator[bytes]:
    """Return the bytes of the archive; raises Missing if the network fails."""
    try:
        with urlopen(URL, timeout=60) as source:
            while piece := source.read(2**20):
                yield piece
    except OSError as error:
        raise Missing(f"dataset 'tiny-imagenet' could not be downloaded: {error}") from None


def _training(archive: zipfile.ZipFile, number: dict[str, int]) -> Iterator[tuple[str, int]]:
    """Return the archive entry and label of every training image, sorted by class and file number."""
    entries = [name for name in archive.namelist() if name.startswith(f"{TOP}/train/") and name.endswith(".JPEG")]
    for entry in sorted(entries, key=lambda name: (name.split("/")[2], int(name.rpartition("_")[2][: -len(".JPEG")]))):
        yield entry, number[entry.split("/")[2]]


def _validation(archive: zipfile.ZipFile, number: dict[str, int]) -> Iterator[tuple[str, int]]:
    """Return the archive entry and label of every validation image, in the order of `val_annotations.txt`."""
    for line in archive.read(f"{TOP}/val/val_annotations.txt").decode().splitlines():
        file, name, *_ = line.split("\t")
        yield f"{TOP}/val/images/{file}", number[name]


def _split(archive: zipfile.ZipFile, entries: Iterator[tuple[str, int]]) -> Split:
    listed = list(entries)
    images: NDArray[np.uint8] = np.empty((len(listed), SIDE, SIDE, 3), np.uint8)
    for place, (entry, _) in enumerate(listed):
        with archive.open(entry) as handle, Image.open(handle, formats=["JPEG"]) as picture:
            if picture.size != (SIDE, SIDE):
                raise InvalidInput(f"{entry}: {picture.size[0]}x{picture.size[1]} pixels instead of {SIDE}x{SIDE}")
            images[place] = np.asarray(picture.convert("RGB"))
    return Split(images, np.array([label for _, label in listed], np.int64))


def _md5(path: Path) -> str:
    digest = md5(usedforsecurity=False)
    with path.open("rb") as handle:
        while piece := handle.read(2**20):
            digest.update(piece)
    return digest.hexdigest()
