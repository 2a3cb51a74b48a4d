"""A command that copies from a URL while another process works on the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stored import CLEAN, PGD, run_spec, store

from fairbench.results import folder as folders
from fairbench.results.folder import RunFolder
from fairbench.results.remote import Mirror

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: pip install fsspec")
LESS = {"best/clean": CLEAN, "best/pgd-20": PGD, "last/clean": CLEAN}
MORE = {**LESS, "best/cw-30": PGD}


def _mirror(tmp_path: Path, machine: str, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    monkeypatch.setenv("FAIRBENCH_MIRRORS", str(tmp_path / machine))
    return Mirror(f"file://{tmp_path}/there")


def _finish(mirror: Mirror, **changes: Any) -> RunFolder:
    """A finished run in the local folder of a URL, its weights included."""
    path = mirror.folder / "results" / run_spec().folder
    path.mkdir(parents=True, exist_ok=True)
    for name in ("best.safetensors", "last.safetensors"):
        (path / name).write_bytes(b"weights")
    return store(mirror.folder / "results", run_spec(), **changes)


@pytest.mark.parametrize("status", ["", "trained"], ids=["that is trained", "that gets attacks"])
@pytest.mark.parametrize(("predicted", "kept"), [(MORE, MORE), (LESS, LESS)], ids=["more", "as much"])
def test_a_reader_that_waited_for_a_run_keeps_what_the_run_has_more(tmp_path, monkeypatch, status, predicted, kept):
    one = _mirror(tmp_path, "one", monkeypatch)
    _finish(one, predicted=LESS)
    one.push_runs()
    two = _mirror(tmp_path, "two", monkeypatch)
    run = RunFolder(two.folder / "results" / run_spec().folder)
    run.path.mkdir(parents=True)
    if status:
        run.write({"status": status})
    waits, real = [], folders.locked

    def locked(path: Path, *rest: Any) -> Any:
        if path == run.path:
            waits.append(path)
            _finish(two, predicted=predicted)  # what the process that holds the lock does meanwhile
        return real(path, *rest)

    monkeypatch.setattr(folders, "locked", locked)
    two.pull()
    assert waits == [run.path]
    assert run.damage() == {}
    assert run.read()["evaluations"].keys() == kept.keys()


def test_files_that_change_while_they_are_copied_are_copied_again(tmp_path, monkeypatch):
    from fsspec.implementations.local import LocalFileSystem

    mirror = _mirror(tmp_path, "one", monkeypatch)
    _finish(mirror, predicted=LESS)
    put = LocalFileSystem.put_file

    def put_file(self: Any, here: str, *rest: Any, **options: Any) -> Any:
        if here.endswith("verdicts.npz"):
            monkeypatch.setattr(LocalFileSystem, "put_file", put)
            _finish(mirror, predicted=MORE)
        return put(self, here, *rest, **options)

    monkeypatch.setattr(LocalFileSystem, "put_file", put_file)
    there = RunFolder(tmp_path / "there" / "results" / run_spec().folder)
    mirror.push_runs()
    assert not there.run.exists()
    mirror.push_runs()
    assert there.damage() == {}
    assert there.read()["evaluations"].keys() == MORE.keys()
