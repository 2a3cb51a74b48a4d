"""What strangers hand over cannot run, cannot escape its folder, and cannot take memory it does not bring."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fairbench.authoring.scaffold import new_method
from fairbench.data import load_test
from fairbench.errors import CorruptFile, FairbenchError, InvalidInput
from fairbench.leaderboard import builder
from fairbench.models import open_model
from fairbench.results.folder import RunFolder
from fairbench.run.plan import plan
from fairbench.suites.suite import load_suite

NAMES = ["../x", "/x", "..", ".", "", "a/b", "a\0b", "x" * 300, "a b", "a\nb", "~"]
RESERVED = ["con", "NUL", "com1", "Lpt9", "aux.v2"]
MIB = 2**20


class _Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("suffix", ["pt", "pth", "ckpt"])
@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_a_checkpoint_that_would_run_code_is_refused_and_did_not(tmp_path, suffix, form):
    path, trap = tmp_path / f"model.{suffix}", tmp_path / "ran"
    content = {"state_dict": {"weight": torch.zeros(3)}, "optimizer": _Touch(trap)}
    if form == "bare":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CorruptFile, match=str(path)):
        open_model(path, arch="small-cnn", num_classes=3, shape=(1, 8, 8))
    assert not trap.exists()
    pickle.loads(pickle.dumps(_Touch(trap)))
    assert trap.exists()  # the trap works


def test_arrays_that_would_run_code_are_refused_and_did_not(tmp_path):
    trap = tmp_path / "ran"
    np.savez(tmp_path / "data.npz", images=np.array([_Touch(trap)], dtype=object), labels=np.zeros(1, int))
    with pytest.raises(CorruptFile, match="pickled Python objects, which are never loaded"):
        load_test(f"npz:{tmp_path}/data.npz")
    folder = RunFolder(tmp_path)
    np.savez(folder.verdicts, labels=np.array([_Touch(trap)], dtype=object))
    with pytest.raises(CorruptFile, match=str(folder.verdicts)):
        folder.read_verdicts()
    assert not trap.exists()


def _header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def _archive(path: Path, images: bytes) -> str:
    labels = io.BytesIO()
    np.save(labels, np.zeros(4, np.int64))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", images)
        archive.writestr("labels.npy", labels.getvalue())
    return f"npz:{path}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_header((10**9, 32, 32, 3)), "which are not in the file"),
        (_header((2**62, 2, 2, 1)), "which are not in the file"),
        (_header((4, 8, 8, 1)) + bytes(64 * MIB), "which are not in the file"),
    ],
    ids=["header", "overflow", "bomb"],
)
def test_a_header_that_promises_more_than_the_file_has_allocates_nothing(tmp_path, content, message):
    name = _archive(tmp_path / "data.npz", content)
    tracemalloc.start()
    with pytest.raises(CorruptFile, match=message):
        load_test(name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * MIB


def test_a_bomb_among_verdicts_is_refused(tmp_path):
    folder = RunFolder(tmp_path)
    with zipfile.ZipFile(folder.verdicts, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.npy", _header((10**9,), "<i2"))
    with pytest.raises((CorruptFile, InvalidInput), match=str(folder.verdicts)):
        folder.read_verdicts()


@pytest.mark.parametrize("name", [*NAMES, *RESERVED])
def test_a_suite_name_that_is_no_folder_name_is_refused(make_suite, tmp_path, name):
    suite = make_suite(tmp_path / "suite", name=name)
    with pytest.raises(InvalidInput, match="name: "):
        load_suite(str(suite))


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_its_folder(make_suite, tmp_path, monkeypatch, name):
    root = tmp_path / "deep" / "root"
    root.mkdir(parents=True)
    monkeypatch.chdir(root)
    suite = load_suite(str(make_suite(tmp_path / "deep" / "suite")))
    before = sorted(tmp_path.rglob("*"))
    for attempt in (
        lambda: plan(suite, methods=[name]),
        lambda: plan(suite, methods=[f"sat+{name}"]),
        lambda: new_method(name, root),
        lambda: builder.build_boards(Path("results"), Path("leaderboards"), name),
        lambda: open_model(name),
    ):
        with pytest.raises((FairbenchError, OSError)):  # of a name that is too long the system speaks, in one line
            attempt()
    assert sorted(tmp_path.rglob("*")) == before


def test_checksums_are_taken_of_the_files_of_the_run_alone(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write({"status": "trained"})
    record = folder.read()
    secret = tmp_path / "secret"
    secret.write_text("x")
    folder.run.write_text(json.dumps({**record, "files": {"../secret": "0" * 64}}))
    assert folder.damage() == {}
    assert secret.exists()


def test_a_plugin_is_named_before_its_code_runs(tmp_path, monkeypatch, fairbench):
    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fairbench.registry._plugin_files", {})
    code, _, err = fairbench("methods", "--plugin", "mine.py")
    assert code == 0  # a listing reads it and does not run it
    assert err == f"--plugin: the code of {tmp_path}/mine.py runs with your rights\n"


def test_what_is_written_is_readable_by_all_and_writable_by_its_owner_alone(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write({"status": "trained"})
    assert folder.run.stat().st_mode & 0o777 == 0o644
