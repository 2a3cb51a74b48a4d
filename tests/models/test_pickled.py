"""Files of `torch.save`: valid ones are read as by torch, hostile ones take neither memory nor time."""

from __future__ import annotations

import io
import pickle
import resource
import struct
import subprocess
import sys
import time
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

from fairbench.errors import CorruptFile
from fairbench.models.foreign import read_weights
from fairbench.models.pickled import read_pickle

GIB = 2**30


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4))


def _training() -> dict:
    network = _network()
    optimizer = SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.rand(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    return {
        "state_dict": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 7,
        "best": 0.5,
        "rng": torch.get_rng_state(),
        "seen": {1, 2},
        "raw": b"bytes",
        "shape": torch.Size([3, 8, 8]),
        "kind": torch.float16,
        "where": torch.device("cpu"),
        "history": [0.1, None, True, -(2**40)],
    }


def _same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other or isinstance(one, torch.device)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_torch_saves_comes_back_as_torch_reads_it(tmp_path, zipped):
    tied = torch.arange(12.0).reshape(3, 4)
    contents = [_training(), {"a": tied, "b": tied.T, "c": tied[1:, ::2]}, OrderedDict(x=nn.Parameter(tied))]
    kinds = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8]
    contents.append({str(kind): torch.ones(3, 0 if kind is torch.int8 else 2, dtype=kind) for kind in kinds})
    contents.append(
        {"scalar": torch.tensor(3), "bool": torch.tensor([True]), "byte": torch.zeros(2, dtype=torch.uint8)}
    )
    for content in contents:
        torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        with_torch = torch.load(tmp_path / "x.pt", weights_only=True)
        assert _same(with_torch, read_pickle(tmp_path / "x.pt"))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_settings_and_figures_beside_the_weights_are_ignored(tmp_path, zipped):
    weights = _network().state_dict()
    beside = {"args": Namespace(lr=0.1, size=(3, 8), dtype=np.dtype("f4")), "best": np.float64(0.5), "n": np.int64(3)}
    torch.save({**beside, "state_dict": weights}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    assert _same(weights, OrderedDict(read_weights(tmp_path / "x.pt")))


def test_a_tensor_that_is_the_negative_of_its_storage_is_refused(tmp_path):
    lazily = torch.ones(3, dtype=torch.complex64).conj().imag
    assert lazily.is_neg()
    torch.save({"w": lazily}, tmp_path / "x.pt")
    with pytest.raises(CorruptFile, match="a tensor that is computed from its storage"):
        read_pickle(tmp_path / "x.pt")


def test_tensors_that_share_memory_take_it_once(tmp_path):
    tied = torch.zeros(1000)
    torch.save({"a": tied, "b": tied}, tmp_path / "x.pt")
    found = read_pickle(tmp_path / "x.pt")
    assert found["a"].data_ptr() == found["b"].data_ptr()


def _archive(path: Path, main: bytes, records: dict[str, bytes] | None = None) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", main)
        for name, content in (records or {}).items():
            archive.writestr(f"x/data/{name}", content)


def _call(name: str, arguments: bytes) -> bytes:
    module, _, function = name.rpartition(".")
    return b"\x80\x02c" + f"{module}\n{function}\n".encode() + arguments + b"R."


def _number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def _tensor(count: int, size: bytes, stride: bytes, name: str = "torch\nFloatStorage") -> bytes:
    pid = b"(X\x07\x00\x00\x00storagec" + name.encode() + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    storage = pid + _number(count) + b"tQ"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + size + stride + b"\x89}tR."


def _one(value: int) -> bytes:
    return _number(value) + b"\x85"


def _overlapping(path: Path) -> None:
    """Many names for one entry: the archive's directory grows by 60 bytes for each 500 kB that it claims."""
    _archive(path, b"\x80\x02}.", {"0": bytes(500_000)})
    content = path.read_bytes()
    end = content.rfind(b"PK\x05\x06")
    start = int.from_bytes(content[end + 16 : end + 20], "little")
    last = content.rfind(b"PK\x01\x02")
    entries = content[start:end] + b"".join(
        content[last:end].replace(b"x/data/0", b"x/data/" + bytes([65 + number])) for number in range(26)
    )
    head = content[end : end + 8] + struct.pack("<HHII", 28, 28, len(entries), start) + b"\0\0"
    path.write_bytes(content[:start] + entries + head)


BIG = 900_000_000
DEEP = b"\x80\x02)" + b"\x85" * 100_000
HOSTILE: dict[str, Callable[[Path], None]] = {
    "bytearray": lambda path: _archive(path, _call("builtins.bytearray", _one(BIG))),
    "bytearray, bare": lambda path: path.write_bytes(_call("builtins.bytearray", _one(BIG))),
    "bytearray opcode": lambda path: _archive(path, b"\x80\x05\x96" + struct.pack("<Q", BIG) + b"."),
    "tensor": lambda path: _archive(path, _call("torch.Tensor", _one(BIG))),
    "storage": lambda path: _archive(path, _call("torch.FloatStorage", _one(BIG))),
    "untyped": lambda path: _archive(path, _call("torch.storage.UntypedStorage", _one(BIG))),
    "larger than its storage": lambda path: _archive(path, _tensor(1, _one(BIG), _one(1)), {"0": bytes(4)}),
    "one number often": lambda path: _archive(path, _tensor(1, _one(BIG), _one(0)), {"0": bytes(4)}),
    "larger than its record": lambda path: _archive(path, _tensor(BIG, _one(BIG), _one(1)), {"0": bytes(4)}),
    "negative": lambda path: _archive(path, _tensor(1, _one(-1), _one(1)), {"0": bytes(4)}),
    "meta": lambda path: torch.save({"a": torch.empty(BIG, device="meta")}, path),
    "float8": lambda path: torch.save({"a": torch.zeros(4).to(torch.float8_e4m3fn)}, path),
    "nested": lambda path: torch.save({"a": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, path),
    "sparse": lambda path: torch.save({"a": torch.ones(2, 2).to_sparse()}, path),
    "memo": lambda path: _archive(path, b"\x80\x02]r" + struct.pack("<I", 2**32 - 2) + b"."),
    "deep key": lambda path: _archive(path, b"\x80\x02}" + DEEP[2:] + b"K\x01s."),
    "deep element": lambda path: _archive(path, _call("builtins.set", b"]" + DEEP[2:] + b"a\x85")),
    "colliding keys": lambda path: _archive(
        path, b"\x80\x02}(" + b"".join(_number(k * (2**61 - 1)) + b"N" for k in range(20_000)) + b"u."
    ),
    "sets": lambda path: _archive(path, b"\x80\x04(" + b"\x8f" * 20_000_000 + b"t."),
    "copies": lambda path: _archive(
        path,
        b"\x80\x02X" + struct.pack("<I", 10**6) + b"a" * 10**6
        + b"q\x000X\x06\x00\x00\x00latin1q\x010c_codecs\nencode\nq\x020("
        + b"h\x02h\x00h\x01\x86R" * 10_000 + b"t.",
    ),
    "overlapping": _overlapping,
    "attribute of a function": lambda path: _archive(path, b"\x80\x02ctorch\nSize\n(N}X\x01\x00\x00\x00aK\x01stb."),
    "class": lambda path: _archive(path, b"\x80\x02cbuiltins\nobject\n)\x81."),
    "two data.pkl of one name": lambda path: (_archive(path, b"\x80\x02}."), _append(path)),
}  # fmt: skip


def _append(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_line_and_takes_neither_memory_nor_time(tmp_path, name):
    path = tmp_path / "model.pt"
    HOSTILE[name](path)
    begin, limit = time.monotonic(), resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 10 * path.stat().st_size + GIB // 2, limit[1]))
    try:
        with pytest.raises(CorruptFile, match=f"^{path}: ") as caught:
            read_weights(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "MemoryError" not in str(caught.value)
    assert time.monotonic() - begin < 20


def test_a_dictionary_that_contains_itself_ends(tmp_path):
    content: dict[str, object] = {}
    content["model"] = content
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CorruptFile, match="holds no state dict"):
        read_weights(tmp_path / "model.pt")


def test_a_legacy_file_that_claims_more_than_it_holds(tmp_path):
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, stream, _use_new_zipfile_serialization=False)
    for cut in (100, 1000, 3000):
        (tmp_path / "model.pt").write_bytes(stream.getvalue()[:-cut])
        with pytest.raises(CorruptFile):
            read_weights(tmp_path / "model.pt")


def test_the_reader_stays_as_it_was_after_hostile_files(tmp_path):
    code = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from models.test_pickled import HOSTILE, read_pickle
for name in ("attribute of a function", "class", "deep key", "deep element"):
    path = Path(sys.argv[2]) / "bad.pt"
    HOSTILE[name](path)
    try:
        read_pickle(path)
    except Exception as error:
        assert type(error).__name__ == "CorruptFile", error
torch.save({"a": torch.Size([1]), "b": torch.ones(1)}, Path(sys.argv[2]) / "good.pt")
print(read_pickle(Path(sys.argv[2]) / "good.pt"))
"""
    tests = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code, tests, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "{'a': (1,), 'b': tensor([1.])}\n"), done.stderr
