from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fairbench.files
from fairbench.errors import CorruptFile, FairbenchError, InvalidInput, Missing
from fairbench.files import at_home, atomic, checksum, locked, read_json, refuse_links, write_json, write_text


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


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"a": }', b"\xff\xfe", b"[" * 100_000, b'{"a": 1, "b": {"c": 1, "c": 1}}']
)
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


def test_the_umask_decides_who_may_read_what_is_written(tmp_path):
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "mine", "x")
        os.umask(0o002)
        write_text(tmp_path / "ours", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == 0o664


KILLED = """
import os, signal, sys
from pathlib import Path
from fairbench.files import atomic
with atomic(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_temporary_files_of_killed_writers_are_swept_and_those_of_living_ones_stay(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a.csv")], check=False)
    (left,) = names(tmp_path)
    users = [".notes.~backup~", ".a.csv.swp", "a.csv~"]
    for name in users:
        (tmp_path / name).write_text("a user's own")
    with atomic(tmp_path / "b.csv") as living:
        write_text(tmp_path / "c.csv", "x")
        assert living.exists()
        assert left not in names(tmp_path)
    assert names(tmp_path) == sorted([*users, "b.csv", "c.csv"])


def test_no_lock_file_is_opened_through_a_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".run.lock").symlink_to(victim)
    with pytest.raises(FairbenchError, match="run: cannot be written: "), locked(folder / "run"):
        pass
    (folder / ".run.lock").unlink()
    (folder / ".run.lock").hardlink_to(victim)
    with locked(folder / "run"):
        pass
    assert victim.read_text() == "precious"


def test_an_atomic_write_replaces_a_link_and_leaves_what_it_leads_to(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "report").symlink_to(victim)
    write_text(tmp_path / "report", "new")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "report").is_symlink()


def test_links_are_refused_below_the_folder_given_and_not_above_it(tmp_path):
    (tmp_path / "real" / "results").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "real")
    refuse_links(tmp_path / "out" / "results" / "digits", levels=2)
    (tmp_path / "real" / "results" / "digits").symlink_to(tmp_path)
    with pytest.raises(InvalidInput, match=f"^{tmp_path}/out/results/digits: is a link"):
        refuse_links(tmp_path / "out" / "results" / "digits" / "sat", levels=3)


def test_pipes_and_devices_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        for read in (read_json, checksum):
            with pytest.raises(Missing, match=f"^{path}: cannot be read: not a regular file"):
                read(path)


def test_json_that_would_take_memory_out_of_proportion_is_refused_unread(tmp_path):
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(10**9)  # sparse: it takes no room on the disk
    with pytest.raises(CorruptFile, match="larger than the 16000000 bytes allowed"):
        read_json(tmp_path / "large.json")


@pytest.mark.parametrize("linked", [False, True], ids=["itself", "link"])
def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path, linked):
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "report.html"
    path.symlink_to(tmp_path / "pipe") if linked else os.mkfifo(path)
    with pytest.raises(FairbenchError, match=f"^{path}: cannot be written: not a regular file$"):
        write_text(path, "text")
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert names(tmp_path) == ["pipe", "report.html"]


def test_a_link_or_a_file_in_the_place_of_the_temporary_file_is_not_written_to(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr(fairbench.files, "token_hex", lambda _: "0" * 16)
    place = tmp_path / f".a.csv.~{'0' * 16}~.csv"
    monkeypatch.setattr(fairbench.files, "_sweep", lambda _: None)
    for plant in (lambda: place.symlink_to(victim), lambda: place.hardlink_to(victim)):
        plant()
        with pytest.raises(FairbenchError, match=r"a\.csv: cannot be written: File exists"):
            write_text(tmp_path / "a.csv", "text")
        assert victim.read_text() == "precious"
        place.unlink()


def test_bytes_of_a_name_that_are_no_utf_8_do_not_lose_the_file(tmp_path):
    name = os.fsdecode(b"\xff.npz")
    write_text(tmp_path / "report.html", f"<p>{name}</p>")
    assert (tmp_path / "report.html").read_bytes() == rb"<p>\udcff.npz</p>"


def test_a_path_stays_as_it_is_where_no_home_folder_is_known(monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    assert [str(at_home(text)) for text in ("~/a", "a", "/a~")] == ["/h/a", "a", "/a~"]
    assert str(at_home("~nobody-has-this-name/a")) == "~nobody-has-this-name/a"
