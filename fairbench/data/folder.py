"""Data sets as folders of picture files, one folder a class, in the layout of torchvision's ImageFolder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairbench.data.dataset import MAX_BYTES, Split
from fairbench.errors import CorruptFile, InvalidInput, Missing

__all__ = ["read_folder"]

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def read_folder(directory: Path) -> tuple[Split, tuple[str, ...]]:
    """Read `directory/<class>/<picture>` as RGB, classes and pictures in the order of their names.

    Raises Missing when the folder is not there, InvalidInput when a class is empty or a picture has another size than
    the first, CorruptFile when a picture cannot be decoded.
    """
    if not directory.is_dir():
        raise Missing(f"{directory}: no such folder")
    classes = sorted(entry for entry in directory.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise InvalidInput(f"{directory}: needs one folder a class, and has none")
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(classes):
        pictures = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
        if not pictures:
            raise InvalidInput(f"{folder}: no picture ({', '.join(sorted(SUFFIXES))})")
        files += pictures
        labels += [label] * len(pictures)
    return Split(_decode_all(files), np.array(labels, dtype=np.int64)), tuple(folder.name for folder in classes)


def _decode_all(files: list[Path]) -> NDArray[np.uint8]:
    width, height = _size(files[0])
    if len(files) * height * width * 3 > MAX_BYTES:
        raise InvalidInput(f"{files[0].parent}: {len(files)} pictures of {width}x{height} exceed {MAX_BYTES} bytes")
    images = np.empty((len(files), height, width, 3), dtype=np.uint8)
    for position, file in enumerate(files):
        images[position] = _decode(file, (width, height))
    return images


def _size(file: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return picture.size
    except Exception as error:
        raise _unreadable(file, error) from None


def _decode(file: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode one picture to uint8 [H,W,3], after its header has shown that it has the size of the first."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            if picture.size != size:
                found, wanted = (f"{width}x{height}" for width, height in (picture.size, size))
                raise InvalidInput(f"{file}: is {found}, but the first picture is {wanted}; all must share one size")
            return np.asarray(picture.convert("RGB"))
    except InvalidInput:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> CorruptFile:
    return CorruptFile(f"{file}: not a readable picture: {' '.join(str(error).split())[:200]}")
