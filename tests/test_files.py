from __future__ import annotations

import errno
import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairbench.errors import CorruptFile, FairbenchError, Missing
from fairbench.files import atomic, checksum, locked, read_json, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_replaces_the_whole_file_and_makes_its_folder(tmp_path):
    path = tmp_path / "deep" / "er" / "notes.txt"
    write_text(path, "old, and longer than what follows")
    write_text(path, "new é\n")
    assert path.read_bytes() == "new é\n".encode()
    assert names(path.parent) == ["notes.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_the_old_content_stands_until_the_block_ends(tmp_path):
    path = tmp_path / "weights.npz"
    path.write_bytes(b"old")
    with atomic(path) as temporary:
        temporary.write_bytes(b"half")
        assert path.read_bytes() == b"old"
        assert temporary.parent == path.parent
        assert temporary.suffix == ".npz"
    assert path.read_bytes() == b"half"


def test_content_and_folder_are_on_the_disk_before_anybody_is_told(tmp_path, monkeypatch):
    synced: list[tuple[int, bool]] = []
    path = tmp_path / "file"

    def fsync(handle: int) -> None:
        synced.append((stat.S_IFMT(os.fstat(handle).st_mode), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(path, "text")
    assert synced == [(stat.S_IFREG, False), (stat.S_IFDIR, True)]


@pytest.mark.parametrize("failure", [ValueError("mine"), KeyboardInterrupt()])
def test_a_failure_inside_leaves_everything_as_it_was(tmp_path, failure):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(failure)), atomic(path) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise failure
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_full_disk_is_one_line(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(FairbenchError, match=f"^{path}: cannot be written: No space left on device$"), atomic(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


def test_a_file_where_a_folder_should_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "inside.txt"
    with pytest.raises(FairbenchError, match=f"^{path}: cannot be written: "):
        write_text(path, "text")
    with pytest.raises(FairbenchError, match=f"^{path}: cannot be written: "), locked(path):
        pass


def test_a_folder_in_the_place_of_the_file_is_one_line(tmp_path):
    with pytest.raises(FairbenchError, match="cannot be written: Is a directory"):
        write_text(tmp_path, "text")
    assert names(tmp_path) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=json_values)
def test_json_comes_back_exactly(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value
    assert path.read_text(encoding="utf-8").endswith("\n")


def test_json_keeps_the_order_of_keys(tmp_path):
    write_json(tmp_path / "a.json", {"z": 1, "a": 0.1})
    assert list(read_json(tmp_path / "a.json")) == ["z", "a"]
    assert json.loads((tmp_path / "a.json").read_text())["a"] == 0.1


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": }', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_a_corrupt_file(tmp_path, content):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=f"^{path}: not valid JSON: "):
        read_json(path)


def test_json_that_is_not_there_or_no_file(tmp_path):
    with pytest.raises(Missing, match=r"absent.json: no such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(Missing, match="cannot be read: Is a directory"):
        read_json(tmp_path)


def test_checksum_is_sha256_of_the_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert checksum(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_lock_lets_one_in_at_a_time_and_says_that_it_waits(tmp_path):
    path, events, may_leave = tmp_path / "run", [], threading.Event()

    def second():
        with locked(path, lambda: (events.append("waits"), may_leave.set())):
            events.append("second")

    other = threading.Thread(target=second)
    with locked(path, lambda: events.append("never")):
        other.start()
        assert may_leave.wait(10)
        events.append("first")
    other.join(10)
    assert events == ["waits", "first", "second"]


def test_a_lock_is_free_again_after_a_failure(tmp_path):
    with pytest.raises(ValueError, match="mine"), locked(tmp_path / "run"):
        raise ValueError("mine")
    with locked(tmp_path / "run", lambda: pytest.fail("the lock was not given back")):
        pass
