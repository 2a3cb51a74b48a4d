"""Reading `torch.save` files as tensors and plain containers: nothing in them is called, and sizes are checked first.

`torch.load(weights_only=True)` runs no code of a file, but allocates what the file requests: a few hundred bytes can
name a tensor of gigabytes. This reader allocates at most the file's own size, and a bounded amount for containers.
"""

from __future__ import annotations

import pickle
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairbench.errors import CorruptFile
from fairbench.files import open_regular
from fairbench.models.unpickling import MAX_PICKLE_BYTES, Storage, unpickle

__all__ = ["read_pickle"]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


def read_pickle(path: Path) -> Any:
    """Return the content of a `torch.save` file, tensors on the CPU; raises CorruptFile for other objects in it."""
    try:
        with open_regular(path) as file:
            if file.peek(4)[:4] == b"PK\x03\x04":
                with zipfile.ZipFile(file) as archive:
                    return _from_archive(archive, path.stat().st_size)
            return _from_legacy(file.read())
    except pickle.UnpicklingError as error:
        raise CorruptFile(
            f"{path}: refused: it is damaged, or more than plain weights; save model.state_dict() ({error})"
        ) from None
    except CorruptFile as error:
        raise CorruptFile(f"{path}: {error}") from None
    except Exception as error:  # the file is untrusted: archives and pickles raise many kinds of errors
        raise CorruptFile(f"{path}: not a readable checkpoint: {' '.join(str(error).split())[:200]}") from None


def _from_archive(archive: zipfile.ZipFile, size: int) -> Any:
    """Read the format of torch 1.6 and later: a pickle, and an uncompressed record of raw bytes for each storage."""
    entries = _checked_entries(archive, size)
    main = next((name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1), None)
    if main is None:
        raise ValueError("it has no data.pkl")
    if entries[main].file_size > MAX_PICKLE_BYTES:
        raise CorruptFile(f"refused: more than {MAX_PICKLE_BYTES} bytes of it are no tensors")
    root = main.removesuffix("data.pkl")
    if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != sys.byteorder.encode():
        raise ValueError("its numbers have another byte order")

    def load(dtype: torch.dtype, key: str, count: int) -> Storage:
        entry = entries.get(f"{root}data/{key}")
        if entry is None or entry.file_size != count * dtype.itemsize:
            raise pickle.UnpicklingError(f"storage {key!r:.40} is not as large as it says")
        return Storage(_values(bytearray(archive.read(entry)), dtype))

    return unpickle(BytesIO(archive.read(main)), load)


def _checked_entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if any(name.partition("/")[2].startswith("code/") for name in entries):
        raise CorruptFile("refused: a TorchScript archive is a program; save model.state_dict() of the Python module")
    for entry in entries.values():
        if entry.compress_type != zipfile.ZIP_STORED:
            raise CorruptFile(f"refused: {entry.filename!r:.80} is compressed, which torch.save never does")
    if len(entries) < len(archive.infolist()) or sum(entry.file_size for entry in archive.infolist()) > size:
        raise CorruptFile("refused: its entries hold more than the file")
    return entries


def _from_legacy(content: bytes) -> Any:
    """Read the format before torch 1.6: pickles that describe the content, then each storage's length and bytes."""
    stream, storages = BytesIO(content), dict[str, Storage]()

    def load(dtype: torch.dtype, key: str, count: int) -> Storage:
        if count * dtype.itemsize > len(content):
            raise pickle.UnpicklingError(f"storage {key!r:.40} is larger than the file")
        # Filled when its bytes come; until then it takes no memory.
        return storages.setdefault(key, Storage(torch.empty(count, dtype=dtype, device="meta")))

    def nothing(_dtype: torch.dtype, _key: str, _count: int) -> Storage:
        raise pickle.UnpicklingError("a storage where none can be")

    if (unpickle(stream, nothing), unpickle(stream, nothing)) != (LEGACY_MAGIC, LEGACY_PROTOCOL):
        raise ValueError("it does not begin as files of torch.save do")
    if unpickle(stream, nothing).get("little_endian") is not (sys.byteorder == "little"):
        raise ValueError("its numbers have another byte order")
    start = stream.tell()
    unpickle(stream, load)
    for key in unpickle(stream, nothing):
        storage = storages[key]
        count = int.from_bytes(stream.read(8), sys.byteorder)
        if count != len(storage.values):
            raise pickle.UnpicklingError(f"storage {key!r:.40} is not as large as it says")
        storage.values = _values(bytearray(stream.read(count * storage.values.itemsize)), storage.values.dtype)
    if any(storage.values.is_meta for storage in storages.values()):
        raise ValueError("a storage is missing")
    stream.seek(start)
    return unpickle(stream, load)  # the tensors are views, so they are made once their storages are there


def _values(content: bytearray, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
