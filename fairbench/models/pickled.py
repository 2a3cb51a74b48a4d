"""Reading `torch.save` files as tensors and plain containers: nothing in them is called, and sizes are checked first.

`torch.load(weights_only=True)` runs no code of a file, but allocates what the file requests: a few hundred bytes can
name a tensor of gigabytes. This reader allocates at most the file's own size, and a bounded amount for containers.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairbench.errors import CorruptFile
from fairbench.files import open_regular

__all__ = ["read_pickle"]

# The most objects in a pickle, one byte of which can make an object of 200 bytes. 1,000 layers have about 20,000.
MAX_OPERATIONS = 1_000_000
MAX_PICKLE_BYTES = 32_000_000
MAX_DIMENSIONS = 64
# Integers of more than 60 bits can be chosen so that their hashes collide and a mapping takes quadratic time.
MAX_LONG = 1_000
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
PLAIN: dict[int, Callable[[Any], None]] = dict(pickle._Unpickler.dispatch)
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class _Kind:
    """The name of a storage class in a file; unlike torch's own classes it cannot be called."""

    dtype: torch.dtype


@dataclass
class _Storage:
    """A one-dimensional tensor of which a file's tensors are views; in old files its content follows later."""

    values: Tensor


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

    def load(dtype: torch.dtype, key: str, count: int) -> _Storage:
        entry = entries.get(f"{root}data/{key}")
        if entry is None or entry.file_size != count * dtype.itemsize:
            raise pickle.UnpicklingError(f"storage {key!r:.40} is not as large as it says")
        return _Storage(_values(bytearray(archive.read(entry)), dtype))

    return _unpickle(BytesIO(archive.read(main)), load)


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
    stream, storages = BytesIO(content), dict[str, _Storage]()

    def load(dtype: torch.dtype, key: str, count: int) -> _Storage:
        if count * dtype.itemsize > len(content):
            raise pickle.UnpicklingError(f"storage {key!r:.40} is larger than the file")
        # Filled when its bytes come; until then it takes no memory.
        return storages.setdefault(key, _Storage(torch.empty(count, dtype=dtype, device="meta")))

    def nothing(_dtype: torch.dtype, _key: str, _count: int) -> _Storage:
        raise pickle.UnpicklingError("a storage where none can be")

    if (_unpickle(stream, nothing), _unpickle(stream, nothing)) != (LEGACY_MAGIC, LEGACY_PROTOCOL):
        raise ValueError("it does not begin as files of torch.save do")
    if _unpickle(stream, nothing).get("little_endian") is not (sys.byteorder == "little"):
        raise ValueError("its numbers have another byte order")
    start = stream.tell()
    _unpickle(stream, load)
    for key in _unpickle(stream, nothing):
        storage = storages[key]
        count = int.from_bytes(stream.read(8), sys.byteorder)
        if count != len(storage.values):
            raise pickle.UnpicklingError(f"storage {key!r:.40} is not as large as it says")
        storage.values = _values(bytearray(stream.read(count * storage.values.itemsize)), storage.values.dtype)
    if any(storage.values.is_meta for storage in storages.values()):
        raise ValueError("a storage is missing")
    stream.seek(start)
    return _unpickle(stream, load)  # the tensors are views, so they are made once their storages are there


def _values(content: bytearray, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _unpickle(stream: BytesIO, load: Callable[[torch.dtype, str, int], _Storage]) -> Any:
    """Read one pickle at the stream's position and move behind it."""
    start = stream.tell()
    long = 0
    for number, (_, argument, _) in enumerate(pickletools.genops(stream)):
        long += isinstance(argument, int) and abs(argument) >= 2**60
        if number >= MAX_OPERATIONS or long > MAX_LONG:
            raise pickle.UnpicklingError("more objects than the weights of a network are")
    end = stream.tell()
    stream.seek(start)
    return _Reader(BytesIO(stream.read(end - start)), load).load()


class _Ignored:
    """Stands for a setting or a figure that training scripts save beside the weights; it is made of nothing."""

    def __init__(self, *_: Any) -> None:
        pass


class _Reader(pickle._Unpickler):
    """Python's own unpickler, which finds no callable but those below and sets no object's state."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(PLAIN)
    stack: list[Any]

    def __init__(self, stream: BytesIO, load: Callable[[torch.dtype, str, int], _Storage]) -> None:
        super().__init__(stream, encoding="utf-8")
        self._load = load
        self._loaded: dict[str, _Storage] = {}
        self._copied = 0

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.cuda", "torch.storage") and name in DTYPES:
            return _Kind(DTYPES[name])
        dtype = getattr(torch, name, None) if module == "torch" and name.isidentifier() else None
        if isinstance(dtype, torch.dtype):
            return dtype
        if (module, name) not in CALLABLES:
            raise pickle.UnpicklingError(f"it names {module}.{name}"[:80])
        return CALLABLES[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        word, kind, key, _, count = pid[:5]
        if word != "storage" or not isinstance(kind, _Kind) or not isinstance(key, str) or not _is_size(count):
            raise pickle.UnpicklingError("a storage of no kind that weights have")
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("a storage that is a part of another")
        if key not in self._loaded:
            self._loaded[key] = self._load(kind.dtype, key, count)
        if self._loaded[key].values.dtype != kind.dtype:
            raise pickle.UnpicklingError(f"storage {key!r:.40} has two types")
        return self._loaded[key]

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not any(function is one for one in CALLABLES.values()):
            raise pickle.UnpicklingError(f"it calls {type(function).__name__}")
        self._copied += sum(len(one) for one in arguments if isinstance(one, Sized) and not isinstance(one, Tensor))
        if self._copied > MAX_PICKLE_BYTES:  # one text or list, used again and again
            raise pickle.UnpicklingError("its calls copy more than it holds")
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        self.stack.pop()
        # Attributes of these objects are no weights.
        if not isinstance(self.stack[-1], OrderedDict | Tensor | _Ignored):
            raise pickle.UnpicklingError(f"it has a {type(self.stack[-1]).__name__} with attributes")

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        PLAIN[pickle.SETITEM[0]](self)

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])
        PLAIN[pickle.SETITEMS[0]](self)

    def load_newobj(self) -> None:
        self.stack.pop()
        if self.stack[-1] is not _Ignored:
            self.refuse()
        self.stack[-1] = _Ignored()

    def refuse(self) -> None:
        raise pickle.UnpicklingError("it holds an object of a class")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    for opcode in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4):
        dispatch[opcode[0]] = refuse
    for opcode in (pickle.ADDITEMS, pickle.FROZENSET, pickle.BYTEARRAY8):
        dispatch[opcode[0]] = refuse


def _check_keys(keys: Iterable[Any]) -> None:
    """Refuse keys other than texts and numbers, because hashing deeply nested tuples exhausts the stack."""
    for key in keys:
        if not isinstance(key, str | bytes | int | float | None):
            raise pickle.UnpicklingError(f"a key that is a {type(key).__name__}")


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any = None, _hooks: Any = None, lazily: Any = None
) -> Tensor:
    """Make a view of a storage after checking that all its elements exist and that it has no more than the storage.

    `lazily` says that the tensor is the storage's negative or conjugate.
    """
    if lazily:
        raise pickle.UnpicklingError("a tensor that is computed from its storage")
    if not isinstance(storage, _Storage) or not len(size) == len(stride) <= MAX_DIMENSIONS:
        raise pickle.UnpicklingError("a tensor of no storage, size or stride")
    if not all(map(_is_size, [offset, *size, *stride])):
        raise pickle.UnpicklingError("a tensor of no storage, size or stride")
    last = offset + sum((one - 1) * step for one, step in zip(size, stride, strict=True))
    if math.prod(size) > 0 and max(last + 1, math.prod(size)) > len(storage.values):
        raise pickle.UnpicklingError("a tensor that is larger than its storage")
    if storage.values.is_meta:
        return torch.empty(0, device="meta")
    return storage.values.as_strided(size, stride, offset)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _typed(function: Any, _kind: Any, arguments: Any, _state: Any) -> Any:
    """Return a tensor without the attributes saved with it."""
    if function is not _tensor:
        raise pickle.UnpicklingError("a tensor made in a way of its own")
    return _tensor(*arguments)


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    _check_keys(key for key, _ in items)
    return OrderedDict(items)


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes as {encoding!r:.20}")
    return text.encode(encoding)


def _device(*_: Any) -> str:
    return "cpu"


def _shape(values: Any = ()) -> tuple[Any, ...]:
    return tuple(values)


def _set(values: Any = ()) -> set[Any]:
    _check_keys(values)
    return set(values)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


CALLABLES: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _typed,
    ("torch.nn.parameter", "Parameter"): _parameter,
    ("torch", "Size"): _shape,
    ("torch", "device"): _device,
    ("torch", "Tensor"): _parameter,
    ("_codecs", "encode"): _bytes,
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
    ("argparse", "Namespace"): _Ignored,
    ("numpy", "dtype"): _Ignored,
    ("numpy.core.multiarray", "scalar"): _Ignored,
    ("numpy._core.multiarray", "scalar"): _Ignored,
}
