"""A reader of pickles of weights: it makes tensors and plain containers, calls nothing else and bounds sizes."""

from __future__ import annotations

import math
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from io import BytesIO
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = ["MAX_PICKLE_BYTES", "Load", "Storage", "unpickle"]

# The most objects in a pickle, one byte of which can make an object of 200 bytes. 1,000 layers have about 20,000.
MAX_OPERATIONS = 1_000_000
MAX_PICKLE_BYTES = 32_000_000
MAX_DIMENSIONS = 64
# Integers of more than 60 bits can be chosen so that their hashes collide and a mapping takes quadratic time.
MAX_LONG = 1_000
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
class Storage:
    """A one-dimensional tensor of which a file's tensors are views; in old files its content follows later."""

    values: Tensor


Load = Callable[[torch.dtype, str, int], Storage]


def unpickle(stream: BytesIO, load: Load) -> Any:
    """Read one pickle at the stream's position and move behind it.

    `load` returns the storage of a dtype, a key and a number of elements. Raises `pickle.UnpicklingError` for what
    plain weights do not have, and what Python's own reader raises for a damaged pickle.
    """
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

    def __init__(self, stream: BytesIO, load: Load) -> None:
        super().__init__(stream, encoding="utf-8")
        self._load = load
        self._loaded: dict[str, Storage] = {}
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

    def persistent_load(self, pid: Any) -> Storage:
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
    if not isinstance(storage, Storage) or not len(size) == len(stride) <= MAX_DIMENSIONS:
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
