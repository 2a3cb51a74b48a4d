"""Each guard of the reader of `torch.save` files refuses by itself, so that no other one hides its loss."""

from __future__ import annotations

import struct
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models.test_pickled import HOSTILE, _archive, _call, _one, _tensor

from fairbench.errors import CorruptFile
from fairbench.models.pickled import read_pickle

_PART = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01K\x00tQ"
_FLOATS, _INTEGERS = (
    _tensor(1, _one(1), _one(1), f"torch\n{kind}Storage")[2:-1] for kind in ("Float", "Int")
)  # without the protocol and the stop


def _compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")


def _torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and its files are still around
        torch.jit.script(torch.nn.Linear(2, 2)).save(path)


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a module": (lambda path: _archive(path, b"\x80\x02cguard_probe\nrun\n."), "it names guard_probe.run"),
    "a type called": (lambda path: _archive(path, _call("torch.float32", b")")), "it calls dtype"),
    "a storage called": (HOSTILE["storage"], "it calls _Kind"),
    "attributes": (HOSTILE["attribute of a function"], "it has a function with attributes"),
    "an object": (lambda path: _archive(path, b"\x80\x02ctorch\nSize\n)\x81."), "it holds an object of a class"),
    "a frozen set": (lambda path: _archive(path, b"\x80\x04(\x91."), "it holds an object of a class"),
    "a key": (HOSTILE["deep key"], "a key that is a tuple"),
    "copies": (HOSTILE["copies"], "its calls copy more than it holds"),
    "objects": (HOSTILE["sets"], "more objects than the weights of a network are"),
    "long integers": (HOSTILE["colliding keys"], "more objects than the weights of a network are"),
    "no tensors": (
        lambda path: _archive(path, b"\x80\x02X" + struct.pack("<I", 32_000_000) + b"a" * 32_000_000 + b"."),
        "more than 32000000 bytes of it are no tensors",
    ),
    "compressed": (_compressed, "is compressed, which torch.save never does"),
    "a program": (_torchscript, "a TorchScript archive is a program"),
    "entries": (HOSTILE["overlapping"], "its entries hold more than the file"),
    "one name twice": (HOSTILE["two data.pkl of one name"], "its entries hold more than the file"),
    "storage": (HOSTILE["larger than its record"], "storage '0' is not as large as it says"),
    "tensor": (HOSTILE["larger than its storage"], "a tensor that is larger than its storage"),
    "one number often": (HOSTILE["one number often"], "a tensor that is larger than its storage"),
    "negative size": (HOSTILE["negative"], "a tensor of no storage, size or stride"),
    "negative stride": (
        lambda path: _archive(path, _tensor(1, _one(0), _one(-1)), {"0": bytes(4)}),
        "a tensor of no storage, size or stride",
    ),
    "two types": (
        lambda path: _archive(path, b"\x80\x02(" + _FLOATS + _INTEGERS + b"t.", {"0": bytes(4)}),
        "storage '0' has two types",
    ),
    "a part of a storage": (
        lambda path: _archive(path, b"\x80\x02" + _PART + b".", {"0": bytes(4)}),
        "a storage that is a part of another",
    ),
    "a tensor by a function": (
        lambda path: _archive(
            path, b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(ccollections\nOrderedDict\nctorch\nSize\n)NtR."
        ),
        "a tensor made in a way of its own",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_each_guard_refuses_by_itself(tmp_path, monkeypatch, name):
    (tmp_path / "guard_probe.py").write_text("def run(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    make, reason = FILES[name]
    path = tmp_path / "model.pt"
    make(path)
    with pytest.raises(CorruptFile) as caught:
        read_pickle(path)
    assert reason in str(caught.value)
    assert "guard_probe" not in sys.modules
