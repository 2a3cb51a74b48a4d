"""Datasets as folders of picture files, one folder per class, in the layout of torchvision's ImageFolder."""

from __future__ import annotations

import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fairbench.data.dataset import MAX_BYTES, Split
from fairbench.errors import CorruptFile, InvalidInput, Missing

__all__ = ["read_folder"]

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# The formats of these suffixes, and GIF, which often has one of them. For other formats Pillow may run a program.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# The decoded pictures may take so many times the bytes of their files, plus a fixed allowance. A decoded photograph
# has 5 to 40 times the bytes of its JPEG file, a uniform picture thousands of times.
_GROWTH, _FREE_BYTES = 50, 150_000_000
_MOST_PIXELS = 2**24  # of one picture; decoding needs up to 20 bytes a pixel
# Pillow's modes with more than 8 bits a pixel, which its own conversion to RGB clips.
_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_SIXTEEN_BITS, _TWELVE_BITS = 2**16 - 1, 2**12 - 1
_SIXTEEN_EACH = re.compile(";16[BLN]")
_NAMED = 5


class _Decoded(NamedTuple):
    """The first frame of a picture as uint8 [H,W,3], its highest level as a share of white if levels are of 16 bits,
    and whether there are several frames.
    """

    pixels: NDArray[np.uint8]
    highest: float | None
    several: bool


def read_folder(directory: Path) -> tuple[Split, tuple[str, ...]]:
    """Read the pictures in `directory/<class>` and its sub-folders as RGB, with classes and pictures sorted by name.

    Pictures are rotated by their EXIF orientation. Grey levels of 16 bits are divided by 257, floats in [0,1]
    multiplied by 255, and of colours of 16 bits the upper 8 are read. Of several frames the first is read, and
    transparency is ignored. Hidden files and folders are ignored; other files that are no pictures, dark pictures of 16
    bits among bright ones, and pictures of several frames are named on stderr.
    Raises Missing if the folder does not exist. Raises InvalidInput if a class is empty, if a picture has another size
    than the first, if the white level is unknown (16-bit levels that nowhere in the folder exceed 4095), and if the
    pictures take more memory than their files justify. Raises CorruptFile if a picture cannot be decoded.
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
    """Return the pictures of a class, sorted by folder and name, and add other files to `skipped`.

    Links to folders are followed; each folder is read once.
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
    """Tell whether a name begins with a dot, such as the `._1.png` that macOS creates beside pictures."""
    return path.name.startswith(".")


def _not_read(directory: Path, skipped: Sequence[Path]) -> str:
    shown = ", ".join(_named(path.relative_to(directory)) for path in skipped[:_NAMED])
    more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    return f"{directory}: not read, because they are no pictures or links to nothing: {shown}{more}"


def _printable(name: str) -> str:
    r"""Escape bytes of a name that are no UTF-8 as `\udcff`, because they can be neither printed nor stored."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _named(file: Path) -> str:
    """Write a path on one line."""
    return _printable(" ".join(str(file).split()))


def _decode_all(files: list[Path]) -> NDArray[np.uint8]:
    allowed = min(MAX_BYTES, _FREE_BYTES + _GROWTH * sum(file.stat().st_size for file in files))
    with _opened(files[0]) as picture:
        stored = picture.size
    if len(files) * math.prod(stored) * 3 > allowed:
        raise InvalidInput(
            f"{files[0].parent}: {len(files)} pictures of {_by(stored)} exceed {allowed} bytes, the most that files of "
            "their size may take"
        )
    if math.prod(stored) > _MOST_PIXELS:
        raise InvalidInput(f"{files[0]}: {_by(stored)} is more than the {_MOST_PIXELS} pixels allowed")
    height, width, _ = _decode(files[0], stored).pixels.shape
    images = np.empty((len(files), height, width, 3), dtype=np.uint8)
    deep: dict[Path, float] = {}
    several: list[Path] = []
    for position, file in enumerate(files):
        picture = _decode(file, (width, height), turned=True)
        images[position] = picture.pixels
        if picture.highest is not None:
            deep[file] = picture.highest
        if picture.several:
            several.append(file)
    _check_white(deep)
    if several:
        print(
            f"{_named(several[0])}: only its first frame is read: {len(several)} of {len(files)} pictures have several",
            file=sys.stderr,
        )
    return images


def _check_white(deep: dict[Path, float]) -> None:
    """Refuse pictures of 16 bits if all are dark; name those that are dark among bright ones on stderr.

    `deep` has the highest level of each such picture, as a share of white. A picture of 12 bits stored in 16 is dark.
    """
    dark = [file for file, highest in deep.items() if highest <= _TWELVE_BITS / _SIXTEEN_BITS]
    if deep and len(dark) == len(deep):
        raise InvalidInput(
            f"{dark[0]}: none of the {len(deep)} pictures of 16 bits or more has a level above {_TWELVE_BITS} "
            f"of {_SIXTEEN_BITS}: they look like pictures of fewer bits, and would be black; store them in 8 bits"
        )
    if dark:
        print(
            f"{_named(dark[0])}: read as dark: {len(dark)} of {len(deep)} pictures of 16 "
            f"bits or more have no level above {_TWELVE_BITS} of {_SIXTEEN_BITS}; if they hold fewer bits, store them "
            "in 8 bits",
            file=sys.stderr,
        )


def _decode(file: Path, size: tuple[int, int], *, turned: bool = False) -> _Decoded:
    """Decode one picture after checking in its header that it has the pixels of `size` (width, height).

    With `turned` the picture must have that size after its EXIF rotation.
    """
    from PIL import ImageOps

    with _opened(file) as picture:
        is_cut = _is_cut(picture)  # decoding forgets it
        if sorted(picture.size) == sorted(size):
            ImageOps.exif_transpose(picture, in_place=True)  # TIFF decoders rotate by themselves
        if sorted(picture.size) != sorted(size) or (turned and picture.size != size):
            raise InvalidInput(
                f"{file}: is {_by(picture.size)}, but the first picture is {_by(size)}; all must share one size"
            )
        if picture.mode in _DEEP:
            pixels, highest = _grey(file, np.asarray(picture), picture.mode)
        else:
            pixels = np.asarray(picture.convert("RGB"))
            highest = float(pixels.max()) / 255 if is_cut else None
        return _Decoded(pixels, highest, getattr(picture, "is_animated", False))


def _is_cut(picture: Any) -> bool:
    """Whether Pillow reads only the upper 8 of 16 bits, as it does of colour in PNG and TIFF (raw mode "RGB;16B").

    The raw mode "BGR;16" of BMP has no byte order: its three colours share 16 bits.
    """
    arguments = [tile[3] for tile in picture.tile]
    raw = [words[0] if isinstance(words, tuple) and words else words for words in arguments]
    return any(isinstance(mode, str) and _SIXTEEN_EACH.search(mode) for mode in raw)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open a picture of a format that Pillow decodes itself; raises CorruptFile for any error of Pillow's."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as picture:
                yield picture
    except InvalidInput:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise _unreadable(file, error) from None


def _grey(file: Path, levels: NDArray[Any], mode: str) -> tuple[NDArray[np.uint8], float | None]:
    """Scale grey levels [H,W] to uint8 [H,W,3] by the white of their type: 65535 for integers, 1 for floats.

    The second value is the highest level as a share of white, or None for floats.
    """
    white = 1.0 if mode == "F" else float(_SIXTEEN_BITS)
    low, high = float(levels.min()), float(levels.max())
    if not (low >= 0 and high <= white):
        raise InvalidInput(
            f"{file}: has levels {low:g} to {high:g} (mode {mode}), not 0 to {white:g}: store it in 8 bits"
        )
    scaled = levels.astype(np.float32)
    scaled *= 255 / white
    pixels = np.repeat(np.rint(scaled, out=scaled).astype(np.uint8)[..., None], 3, axis=2)
    return pixels, None if mode == "F" else high / white


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _unreadable(file: Path, error: Exception) -> CorruptFile:
    return CorruptFile(f"{file}: not a readable picture: {' '.join(str(error).split())[:200]}")
