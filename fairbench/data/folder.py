"""Datasets as folders of picture files, one folder a class, in the layout of torchvision's ImageFolder."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairbench.data.dataset import MAX_BYTES, Split
from fairbench.errors import CorruptFile, InvalidInput, Missing

__all__ = ["read_folder"]

# What Pillow may take a file for, whatever its name says: of other formats some are programs, as PostScript is.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# Modes of Pillow whose pixels have more than 8 bits, which its own conversion to RGB would clip.
_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_SIXTEEN_BITS, _TWELVE_BITS = 2**16 - 1, 2**12 - 1
# EXIF orientations that turn a picture by 90 degrees, so that its height and width change places.
_ORIENTATION, _TURNED = 0x112, (5, 6, 7, 8)
_NAMED = 5


def read_folder(directory: Path) -> tuple[Split, tuple[str, ...]]:
    """Read the pictures in `directory/<class>` and its sub-folders as RGB, classes and pictures in the order of names.

    Pictures are turned as their EXIF orientation says. Grey levels of 16 bits are divided by 257, and floats in [0,1]
    multiplied by 255. Hidden files and folders are passed over; other files that are not read are named on stderr.
    Raises Missing when the folder is not there, InvalidInput when a class is empty, a picture has another size than the
    first, or levels whose white is not known (in all of the folder none above 4095 of 65535), CorruptFile when a
    picture cannot be decoded.
    """
    if not directory.is_dir():
        raise Missing(f"{directory}: no such folder")
    classes = sorted(entry for entry in directory.iterdir() if entry.is_dir() and not _is_hidden(entry))
    if not classes:
        raise InvalidInput(f"{directory}: needs one folder a class, and has none")
    files: list[Path] = []
    labels: list[int] = []
    skipped: list[Path] = []
    for label, folder in enumerate(classes):
        pictures = _pictures(folder, skipped)
        if not pictures:
            raise InvalidInput(f"{folder}: no picture ({', '.join(sorted(SUFFIXES))})")
        files += pictures
        labels += [label] * len(pictures)
    if skipped:
        print(_not_read(directory, skipped), file=sys.stderr)
    names = tuple(_printable(folder.name) for folder in classes)
    return Split(_decode_all(files), np.array(labels, dtype=np.int64)), names


def _pictures(folder: Path, skipped: list[Path]) -> list[Path]:
    """Return the pictures of a class, by folder and then by name, and add to `skipped` the files that are none.

    Links to folders are followed, each folder is read once.
    """
    found: list[Path] = []
    entered: set[str] = set()
    held: dict[str, list[str]] = {}
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        real = os.path.realpath(place)
        if real in entered:
            folders.clear()
        else:
            held[place] = sorted(name for name in files if not name.startswith("."))
        entered.add(real)
    for place in sorted(held):
        for path in (Path(place, name) for name in held[place]):
            (found if path.suffix.lower() in SUFFIXES and path.is_file() else skipped).append(path)
    return found


def _is_hidden(path: Path) -> bool:
    """Whether a name begins with a dot, as those that macOS leaves beside pictures (`._1.png`) do."""
    return path.name.startswith(".")


def _not_read(directory: Path, skipped: Sequence[Path]) -> str:
    names = [" ".join(str(path.relative_to(directory)).split()) for path in skipped[:_NAMED]]  # on one line
    shown = ", ".join(map(_printable, names))
    more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    return f"{directory}: not read, because they are no pictures or links to nothing: {shown}{more}"


def _printable(name: str) -> str:
    r"""Write the bytes of a name that are no UTF-8 as `\udcff`, because they can be neither printed nor stored."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _decode_all(files: list[Path]) -> NDArray[np.uint8]:
    width, height = _size(files[0])
    if len(files) * height * width * 3 > MAX_BYTES:
        raise InvalidInput(f"{files[0].parent}: {len(files)} pictures of {width}x{height} exceed {MAX_BYTES} bytes")
    images = np.empty((len(files), height, width, 3), dtype=np.uint8)
    deep: dict[Path, float] = {}
    for position, file in enumerate(files):
        images[position], white = _decode(file, (width, height))
        if white is not None:
            deep[file] = white
    if deep and max(deep.values()) <= _TWELVE_BITS / _SIXTEEN_BITS:
        raise InvalidInput(
            f"{next(iter(deep))}: none of the {len(deep)} pictures of 16 bits or more has a level above {_TWELVE_BITS} "
            f"of {_SIXTEEN_BITS}: they look like pictures of fewer bits, and would be black; store them in 8 bits"
        )
    return images


def _size(file: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(file, formats=_FORMATS) as picture:
            return _upright(picture)
    except Exception as error:
        raise _unreadable(file, error) from None


def _decode(file: Path, size: tuple[int, int]) -> tuple[NDArray[np.uint8], float | None]:
    """Decode one picture to uint8 [H,W,3], after its header has shown that it has the size of the first.

    Returned with it is its highest level, as a share of white, where it has more than 8 bits.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file, formats=_FORMATS) as picture:
            if _upright(picture) != size:
                found, wanted = (f"{width}x{height}" for width, height in (_upright(picture), size))
                raise InvalidInput(f"{file}: is {found}, but the first picture is {wanted}; all must share one size")
            upright = ImageOps.exif_transpose(picture)
            if upright.mode in _DEEP:
                share = _share_of_white(file, np.asarray(upright), upright.mode)
                grey = np.rint(255 * share).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2), float(share.max())
            return np.asarray(upright.convert("RGB")), None
    except InvalidInput:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise _unreadable(file, error) from None


def _upright(picture: Any) -> tuple[int, int]:
    """Return width and height of a picture once it is turned as its EXIF orientation says."""
    width, height = picture.size
    return (height, width) if picture.getexif().get(_ORIENTATION) in _TURNED else (width, height)


def _share_of_white(file: Path, levels: NDArray[Any], mode: str) -> NDArray[np.float64]:
    """Divide grey levels [H,W] by the white of their type: 65535 of whole numbers, 1 of floats."""
    white = 1.0 if mode == "F" else float(_SIXTEEN_BITS)
    low, high = float(levels.min()), float(levels.max())
    if not (low >= 0 and high <= white):
        raise InvalidInput(
            f"{file}: has levels {low:g} to {high:g} (mode {mode}), not 0 to {white:g}: store it in 8 bits"
        )
    return levels.astype(np.float64) / white


def _unreadable(file: Path, error: Exception) -> CorruptFile:
    return CorruptFile(f"{file}: not a readable picture: {' '.join(str(error).split())[:200]}")
