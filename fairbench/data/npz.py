"""Datasets in `.npz` files. Every header is checked against the file before an array is allocated."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fairbench.data.dataset import MAX_BYTES, Split, check_class_names
from fairbench.errors import CorruptFile, FairbenchError, InvalidInput, Missing

__all__ = ["read_arrays", "read_npz"]

# All arrays together may take GROWTH times the bytes of their file, and FREE_BYTES in any case.
FREE_BYTES = 250_000_000
GROWTH = 8
MAX_CLASS_NAMES = 100_000
# The largest compression ratio of deflate; an entry with a larger one has a false size.
DEFLATE_RATIO = 1032
CHUNK = 2**20
LENGTHS = {(1, 0): 2, (2, 0): 4}  # bytes of the header's length, by version of the format
MAX_HEADER = 10_000  # numpy's own limit


def read_npz(path: Path) -> tuple[Split, tuple[str, ...] | None]:
    """Read `images` uint8 [N,H,W,C], `labels` integer [N] and, if present, `class_names` text [C], no name twice.

    Nothing is unpickled. Raises Missing if there is no such file, CorruptFile if it is no archive of plain arrays,
    InvalidInput if the arrays are no labelled images.
    """
    arrays = read_arrays(path, ("images", "labels", "class_names"))
    for key in ("images", "labels"):
        if key not in arrays:
            with zipfile.ZipFile(path) as archive:
                held = ", ".join(sorted(_names(archive))[:12])
            raise InvalidInput(f"{path}: no array {key!r}; it holds {held or 'nothing'}")
    try:
        split = Split(np.ascontiguousarray(arrays["images"]), _labels(arrays["labels"]))
        return split, _class_names(arrays["class_names"]) if "class_names" in arrays else None
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from None


def read_arrays(path: Path, wanted: Collection[str] | None = None, *, growth: int = GROWTH) -> dict[str, NDArray[Any]]:
    """Read those of the `wanted` arrays that an archive has, in its order; nothing is unpickled.

    Together they may take `growth` times the bytes of the file plus a fixed allowance.

    Raises Missing if there is no such file, CorruptFile if it is no archive of plain arrays, InvalidInput if the arrays
    are too large.
    """
    try:
        if not path.is_file():
            raise Missing(f"{path}: no such file")
        with zipfile.ZipFile(path) as archive:
            left = growth * path.stat().st_size + FREE_BYTES * growth // GROWTH
            found: dict[str, NDArray[Any]] = {}
            for name in _names(archive):
                if name in found:
                    raise CorruptFile(f"{path}: array {name!r} is there twice")
                if wanted is None or name in wanted:
                    found[name] = _read(path, archive, name, left)
                    left -= found[name].nbytes
            return found
    except FairbenchError:
        raise
    except Exception as error:  # the file is untrusted: zipfile, zlib and numpy each raise errors of their own
        raise CorruptFile(f"{path}: not a readable .npz file: {_line(error)}") from None


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _read(path: Path, archive: zipfile.ZipFile, key: str, left: int) -> NDArray[Any]:
    """Read one array of at most `left` bytes after checking its header, its entry and the file's size against each
    other.
    """
    info = archive.getinfo(f"{key}.npy")
    possible = min(info.compress_size, path.stat().st_size)
    if info.compress_type == zipfile.ZIP_DEFLATED:
        possible *= DEFLATE_RATIO
    elif info.compress_type != zipfile.ZIP_STORED:
        raise CorruptFile(f"{path}: array {key!r} is compressed in a way that numpy.savez does not use")
    with archive.open(info) as stream:
        shape, order, dtype = _header(stream)
        if dtype.hasobject:
            raise CorruptFile(f"{path}: array {key!r} holds pickled Python objects, which are never loaded")
        if dtype.itemsize == 0 or min(shape, default=1) < 0:  # elements of zero bytes could be any number
            raise CorruptFile(f"{path}: array {key!r} holds {dtype} of shape {shape}, which takes no room")
        claimed = math.prod(shape) * dtype.itemsize
        if claimed != info.file_size - stream.tell() or info.file_size > possible:
            raise CorruptFile(
                f"{path}: array {key!r} claims {claimed} bytes (shape {shape}), which are not in the file"
            )
        if claimed > min(left, MAX_BYTES):
            raise InvalidInput(
                f"{path}: array {key!r} takes {claimed} bytes, more than the {min(left, MAX_BYTES)} allowed for "
                f"it in a file of {path.stat().st_size}"
            )
        content = bytearray()
        while len(content) < claimed:
            piece = stream.read(min(CHUNK, claimed - len(content)))
            if not piece:
                raise ValueError(f"array {key!r} ends early")
            content += piece
        stream.read(1)  # zipfile compares the checksum at the end
    return np.ndarray(shape, dtype, content, order=order)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version not in LENGTHS:
        raise ValueError(f"unsupported array format {version}")
    size = stream.read(LENGTHS[version])
    length = int.from_bytes(size, "little")
    if length > MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    return _parsed(version, size + stream.read(length))


@lru_cache(maxsize=256)
def _parsed(version: tuple[int, int], header: bytes) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
    """Parse a header, its length first. Cached, because parsing is slow and thousands of runs share a few headers."""
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(io.BytesIO(header))
    return shape, "F" if fortran else "C", dtype


def _labels(labels: NDArray[Any]) -> NDArray[np.int64]:
    if labels.dtype.kind not in "iu":
        raise InvalidInput(f"labels must be integers, got {labels.dtype}")
    if labels.size and int(labels.max()) > np.iinfo(np.int64).max:
        raise InvalidInput(f"label {labels.max()} is out of range")
    return labels.astype(np.int64)


def _class_names(names: NDArray[Any]) -> tuple[str, ...]:
    if names.dtype.kind != "U" or names.ndim != 1:
        raise InvalidInput(
            f"class_names must be a one-dimensional array of text, got {names.dtype} {list(names.shape)}"
        )
    if len(names) > MAX_CLASS_NAMES:
        raise InvalidInput(f"{len(names)} class_names, more than the {MAX_CLASS_NAMES} allowed")
    found = tuple(name.encode("utf-8", "backslashreplace").decode("utf-8") for name in names.tolist())
    if found:
        check_class_names(found)
    return found


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
